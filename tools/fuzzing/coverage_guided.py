"""`python -m tools.fuzzing.coverage_guided`: coverage-guided fuzzing of the YAML reader with atheris.

    python -m tools.fuzzing.coverage_guided -runs=20000 [FOLDER]

Takes libFuzzer's options and stores inputs that reach new branches in FOLDER. The packaged configs are the seed corpus.
A finding is written to a file `crash-*`; pass this file as the only argument to replay it.
"""

import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

MISSING = "atheris is not installed: pip install 'model-factory[fuzz]', or pip install atheris==3.0.0"
_OPTIONS = ("-max_len=4096", "-timeout=2", "-rss_limit_mb=700")
_READER_MODULES = ("compose", "scalars", "document", "overrides", "errors", "node", "dump")


def read_once(data: bytes) -> None:
    """Read bytes as a config and as an option value.

    Raise AssertionError unless the result is data or a list of problems with positions.
    """
    from model_factory.yaml_config.document import read_document
    from model_factory.yaml_config.errors import ConfigError

    path = Path("case.yml")
    path.write_bytes(data)
    option = f"x.y={data.decode(errors='surrogateescape')}"
    for found, options in (("case.yml:", []), ("--set ", [option])):
        if options:
            path.write_text("x: {}\n")
        try:
            _check_round_trip(read_document(path, options))
        except ConfigError as error:
            problems = error.problems
        else:
            continue
        assert problems, "no problem"
        for problem in problems:
            headline = problem.headline()
            assert headline.startswith((found, "case.yml:")), headline
            assert headline.isprintable(), headline
            json.dumps(problem.as_dict())


def _check_round_trip(document: Any) -> None:
    """Check that the data survives a dump and reload unchanged, and that its problems have positions."""
    from model_factory.yaml_config.compose import compose
    from model_factory.yaml_config.dump import dump

    assert all(problem.headline().isprintable() for problem in document.problems)
    if not document.problems:
        text = dump(document.root.data())
        again, problems = compose(text, "again.yml")
        assert not problems, problems[0]
        assert dump(again.data()) == text


def main() -> int:
    """Run libFuzzer, which ends the process itself; return 2 if atheris is missing."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print(MISSING, file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=[f"model_factory.yaml_config.{name}" for name in _READER_MODULES]):
        for name in _READER_MODULES:
            importlib.import_module(f"model_factory.yaml_config.{name}")
    import os

    from tools.fuzzing.packaged_configs import config_bytes, config_names

    words = [str(Path(word).resolve()) if not word.startswith("-") else word for word in sys.argv[1:]]
    artifacts = f"-artifact_prefix={Path.cwd()}/"
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    (folder / "seeds").mkdir()
    for name in config_names():
        (folder / "seeds" / name.replace("/", "_")).write_bytes(config_bytes(name))
    is_replay = any(Path(word).is_file() for word in words)
    kept = [] if is_replay or any(Path(word).is_dir() for word in words) else [str(folder / "kept")]
    (folder / "kept").mkdir()
    seeds = [] if is_replay else [str(folder / "seeds")]
    os.chdir(folder)
    try:
        atheris.Setup([sys.argv[0], *_OPTIONS, artifacts, *words, *kept, *seeds], read_once)
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
