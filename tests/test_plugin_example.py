"""The example package: each of its entries is used from a file, by `--plugin` and through entry points."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.fork_server import run_in_fork

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
FILES = {path.stem: path for path in sorted(EXAMPLE.glob("*.yml"))}
OPTIONS = {"plugin": ("--plugin", "rhyming_plugin.all"), "installed": ()}
CODE = f"""
import contextlib, json, sys
sys.path.append({str(EXAMPLE)!r})
from model_factory.cli.main import main
files = [open(name, "w+") for name in ("out.txt", "error.txt")]  # train needs a file descriptor
for words in json.loads(sys.argv[1]):
    starts = [file.seek(0, 2) for file in files]  # the ends
    with contextlib.redirect_stdout(files[0]), contextlib.redirect_stderr(files[1]):
        code = main(words)
    for file, start in zip(files, starts):
        file.seek(start)
    print(json.dumps([code, *(file.read() for file in files)]))
"""
TABLES = f"""
import importlib, json, sys
sys.path.append({str(EXAMPLE)!r})
if sys.argv[1:]:
    importlib.import_module(sys.argv[-1])
from tools.documentation.diffusion_tables import render_combinations_table, render_samplers_table
from tools.documentation.reference import reference_files
print(json.dumps([reference_files(), render_combinations_table(), render_samplers_table()]))
"""
MISSPELT = {
    "rhymes": ("bigram", "datasets.0.cuont=8", "count"),
    "words": ("bigram", "datasets.0.tokenizer.min_cuont=2", "min_count"),
    "bigram": ("bigram", "model.widht=8", "width"),
    "averaging": ("experiment", "model.backbone.widht=8", "width"),
    "windowed": ("decoder", "model.decoder.attention_type={type: windowed, raech: 4}", "reach"),
    "shifted_relu": ("decoder", "model.decoder.feature_map={type: shifted_relu, shfit: 1.0}", "shift"),
    "zipf": ("experiment", "model.process.exponnet=1.0", "exponent"),
    "power": ("experiment", "model.schedule.powr=3.0", "power"),
    "smoothed": ("experiment", "model.objective.smoothign=0.1", "smoothing"),
    "late_steps": ("experiment", "generation.sampler.pwoer=3.0", "power"),
    "sharp_mean": ("latent", "model.encoder.pooling={type: sharp_mean, sharpnes: 3.0}", "sharpness"),
    "clipped_ddim": ("latent", "generation.sampler.limti=3.0", "limit"),
    "next_word": ("bigram", "training.task={type: next_word, label_smoothng: 0.1}", "label_smoothing"),
}
"""For each entry with keys: a file that uses it, a setting with a misspelt key, and the key."""
TAGS = {
    "rhymes": "datasets.0.source=rhymse",
    "words": "datasets.0.tokenizer={type: wrods}",
    "bigram": "model.model_type=bigrm",
    "averaging": "model.backbone={type: avaraging}",
    "windowed": "model.decoder.attention_type=windwed",
    "shifted_relu": "model.decoder.feature_map=shifted_rleu",
    "zipf": "model.process={type: zpif}",
    "power": "model.schedule={type: powr}",
    "smoothed": "model.objective={type: smothed}",
    "late_steps": "generation.sampler=late_step",
    "sharp_mean": "model.encoder.pooling=sharp_maen",
    "clipped_ddim": "generation.sampler=clipped_ddmi",
    "next_word": "training.task=next_wrod",
}
"""For each of them: a setting with its name misspelt."""


def entry_points() -> dict[str, dict[str, str]]:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: dict[str, dict[str, str]] = project["entry-points"]
    return groups


@pytest.fixture(params=list(OPTIONS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """Folder on sys.path, where the package is installed or not, and the option that loads the package if it is not."""
    if request.param == "installed":
        info = tmp_path / "rhyming_plugin-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rhyming-plugin\nVersion: 0.1.0\n")
        groups = entry_points().items()
        lines = (
            f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()) for group, points in groups
        )
        (info / "entry_points.txt").write_text("".join(lines))
    return tmp_path, OPTIONS[request.param]


def run_many(folder: Path, commands: list[list[str]]) -> list[list]:
    """Run several commands in one process; return the exit code, stdout and stderr of each."""
    code, out, error = run_in_fork(["-c", CODE, json.dumps(commands)], folder)
    assert code == 0, error
    return [json.loads(line) for line in out.splitlines()]


def test_every_kind_of_entry_has_an_example() -> None:
    from model_factory import __dir__

    groups = entry_points()
    decorators = [name for name in __dir__() if name.startswith("register_")]
    parts = {name for name in decorators if name.startswith("register_latent_")} - {"register_latent_sampler"}
    kinds = {"register_latent" if name in parts else name for name in decorators}  # one example for the parts
    assert len(groups) == len(kinds) == 14
    modules = {module for points in groups.values() for module in points.values()}
    assert {f"rhyming_plugin.{path.stem}" for path in (EXAMPLE / "rhyming_plugin").glob("*.py")} == {
        *modules,
        "rhyming_plugin.all",
        "rhyming_plugin.__init__",
    }
    assert {name for points in groups.values() for name in points} == set(MISSPELT)


def test_example_imports_only_the_facade() -> None:
    for path in (EXAMPLE / "rhyming_plugin").glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.lstrip().startswith(("from model", "from data_manager", "import model", "import data_manager")):
                assert line.lstrip().startswith("from model_factory import "), f"{path.name}: {line}"


def test_misspelt_keys_and_names_of_plugin_entries(folder: tuple[Path, tuple[str, ...]]) -> None:
    path, option = folder
    cases = [(name, file, setting, key) for name, (file, setting, key) in MISSPELT.items()]
    cases += [(name, MISSPELT[name][0], setting, name) for name, setting in TAGS.items()]
    results = run_many(
        path, [["validate", *option, "--config", str(FILES[file]), "--set", setting] for _, file, setting, _ in cases]
    )
    for (name, _, setting, expected), (code, _, error) in zip(cases, results, strict=True):
        assert code == 1, (name, setting, error)
        assert f"did you mean {expected!r}?" in error or f"try {expected}" in error, (name, setting, error)


def test_plugin_entries_are_in_the_json_schema(folder: tuple[Path, tuple[str, ...]]) -> None:
    path, option = folder
    [(_, out, _)] = run_many(path, [["validate", *option, "--schema"]])
    schema = json.loads(out)
    names: set[str] = set()
    keys: set[str] = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            names.update(value for value in [node.get("const"), *node.get("enum", [])] if isinstance(value, str))
            fields = node["properties"].items() if isinstance(node.get("properties"), dict) else ()
            keys.update(key for key, field in fields if isinstance(field, dict) and field.get("description"))
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(child)

    collect(schema)
    assert set(MISSPELT) <= names
    assert {key for _, _, key in MISSPELT.values()} <= keys


def test_plugin_entries_are_in_the_reference_and_tables(folder: tuple[Path, tuple[str, ...]]) -> None:
    path, option = folder
    code, out, error = run_in_fork(["-c", TABLES, *option], path)
    assert code == 0, error
    files, fits, samplers = json.loads(out)
    text = "\n".join(files.values())
    for name, (_, _, key) in MISSPELT.items():
        assert name in text, name
        [row, *_] = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
        assert row.split(" | ")[1], key  # the docstring of the field
    assert "| `next_word` | bigram | input_ids | Measure accuracy = tokens" in text
    assert "| zipf | sedd, d3pm, gidd, smoothed | loglinear, geometric, cosine, linear, discrete, power |" in fits
    assert "| late_steps | absorbing, uniform, hybrid, zipf | - | convergent | ancestral, with shorter" in samplers


def test_files_of_the_example_train_and_sample(folder: tuple[Path, tuple[str, ...]]) -> None:
    path, option = folder
    small = ("--set", "training.max_steps=2", "--set", "datasets.0.count=8")
    commands = [["train", *option, "--config", str(file), "--output", name, *small] for name, file in FILES.items()]
    commands.append(["evaluate", *option, "--run", "bigram"])
    commands += [["generate", *option, "--run", name] for name in ("experiment", "decoder", "latent")]
    for command, (code, out, error) in zip(commands, run_many(path, commands), strict=True):
        assert code == 0, (command, error)
        assert command[0] != "evaluate" or "accuracy" in out
