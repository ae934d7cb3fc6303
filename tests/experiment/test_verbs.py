"""Verbs of the command line: names in their help, exit codes, shared options, and no torch before the options are valid."""

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest

from model_factory.cli.main import VERBS, main, module_of
from model_factory.cli.options import SHARED, build_verb_parser
from model_factory.cli.run_command import run_verb

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "validate": ["parse_args.py"],
    "train": ["train.py"],
    "generate": ["generate.py"],
    "evaluate": ["evaluate.py"],
    "sweep": ["-m", "model_factory.cli.sweep"],
    "serve": ["-m", "model_factory.cli.serve"],
    "import": ["-m", "model_factory.cli.import_run"],
    "lm-eval": ["-m", "model_factory.cli.exchange.lm_eval"],
    **{verb: ["-m", f"model_factory.cli.exchange.{verb}"] for verb in ("export", "push", "pull")},
    "compare": ["-m", "model_factory.cli.compare"],
    "data": ["-m", "data_manager.data_manager"],
    "demo": ["-m", "model_factory.cli.demo"],
}
WITHOUT = {"compare": {"set"}, "export": {"set"}, "push": {"set", "plugin"}, "pull": {"set", "plugin"}}
"""Shared options that a verb has no use for."""
PROGS = {
    "sweep": "model-factory sweep",
    "serve": "model-factory serve",
    "lm-eval": "model-factory lm-eval",
    **{verb: f"model-factory {verb}" for verb in ("import", "export", "push", "pull")},
    "compare": "model-factory compare",
    "data": "python -m data_manager.data_manager",
    "demo": "scripts/demo",
}
WRONG = {
    "validate": ["--config", "configs/encoder_model.yml"],
    "train": ["--config", "configs/full_experiment.yml", "--output", "never_written"],
    "generate": ["--run", "never_written"],
    "evaluate": ["--run", "never_written"],
    "sweep": ["--config", "configs/full_experiment.yml", "--output", "never_written", "--seeds", "0,1"],
    "serve": ["--run", "never_written"],
    "import": ["--from", "never_there", "--output", "never_written"],
    "lm-eval": ["--run", "never_written", "--tasks", "x"],
    "export": ["--run", "never_there", "--format", "hf", "--output", "never_written"],
    "push": ["--folder", "never_there", "--to", "owner/name"],
    "pull": ["--from", "owner/name", "--output", "never_written"],
    "compare": ["never_written"],
    "data": ["--config", "configs/data/embedded.yml"],
    "demo": [],
}
"""Valid options of each verb, to which a wrong one is added."""
LIGHT = """
import sys
sys.argv = sys.argv[1:]
try:
    code = __import__("runpy").run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    heavy = {"torch", "transformers", "lhotse", "datasets"} & set(sys.modules)
    sys.exit(end.code if not heavy else f"imported {heavy}")
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_program(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The installed command is run in this process; the module of the package and the program of a checkout are not."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    installed = capsys.readouterr().out
    module, script = (run(*words, "--help") for words in (["-m", "model_factory", verb], SCRIPTS[verb]))
    assert (module.returncode, script.returncode) == (0, 0), module.stderr + script.stderr
    name = PROGS.get(verb, SCRIPTS[verb][0])
    for prog, example, text in (
        (f"model-factory {verb}", f"model-factory {verb}", installed),
        (f"python -m model_factory {verb}", f"python -m model_factory {verb}", module.stdout),
        (name, f"python {name}" if name.endswith(".py") else name, script.stdout),
    ):
        assert text.startswith(f"usage: {prog} [-h]")
        assert f"examples:\n  {example}" in text
        assert "exit codes: 0 good, 1 invalid, 2 wrong usage" in text
        assert text.count("130 interrupted") == 1
    assert "python train.py" not in installed + module.stdout
    assert ".py " not in installed.replace("my.yml", "")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", [["--help"], ["--nope"], ["--set", "x"], ["--plugin", "no_such_types"]], ids=str)
def test_help_and_wrong_usage_import_no_torch(verb: str, wrong: list[str]) -> None:
    modules = [["model_factory", verb]]
    modules += [["data_manager.data_manager"]] if verb == "data" else []
    for words in modules:
        done = run("-c", LIGHT, *words, *WRONG[verb], *wrong)
        assert done.returncode == (0 if wrong == ["--help"] else 2), done.stderr
        assert "Traceback" not in done.stderr
    assert not (ROOT / "never_written").exists()


def test_package_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([], prog="python -m model_factory") == 2
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(VERBS)
    assert err == f"python -m model_factory: give a verb: {', '.join(VERBS)}\n"
    assert main(["dmeo"]) == 2
    assert capsys.readouterr().err == "model-factory: there is no verb 'dmeo'; did you mean 'demo'?\n"
    done = run("-m", "model_factory", "--help")
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, "usage: python -m model_factory VERB [options]")


@pytest.mark.parametrize("verb", VERBS)
def test_shared_options_have_one_help_text(verb: str) -> None:
    parser = import_module(module_of(verb)).build_parser()
    options = [action for action in parser._actions if action.option_strings]
    actions = {action.option_strings[-1].removeprefix("--"): action for action in options}
    assert {"set", "plugin"} - WITHOUT.get(verb, set()) <= set(actions)
    for name in set(SHARED) & set(actions):
        assert actions[name].help == SHARED[name]["help"]


def test_library_imports_no_command_line() -> None:
    code = "import sys, parse_args; parse_args.parse_config('configs/full_experiment.yml'); "
    code += "print([name for name in sys.modules if name.startswith('model_factory.cli')])"
    assert run("-c", code).stdout == "[]\n"


def test_parser_of_a_script_keeps_its_examples() -> None:
    words = {"script": "python x.py", "description": "Do it.", "examples": "  python x.py --config a.yml"}
    assert "  python x.py --config" in build_verb_parser("x.py", **words).format_help()
    assert "  model-factory x --config" in build_verb_parser("model-factory x", **words).format_help()
    with pytest.raises(SystemExit):
        build_verb_parser("x.py", **words, required=("config",)).parse_args([])


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(KeyboardInterrupt, 130, "\ninterrupted\n"), (None, 3, "")],
    ids=["Ctrl-C", "exit code"],
)
def test_run_verb_returns_the_exit_code(
    raised: type[BaseException] | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(Namespace(overrides=[], plugin=[]), refuse, raising(raised)) == code
    assert capsys.readouterr().err == message


def test_run_verb_checks_options_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"overrides": [], "plugin": []}
    for wrong, words in (
        ({"max_rows": ""}, "--max-rows is empty; give it a value"),
        ({"overrides": ["x"]}, "--set takes KEY=VALUE"),
        ({"plugin": ["a b"]}, "--plugin takes the name of a module"),
    ):
        with pytest.raises(ValueError, match=words):
            run_verb(Namespace(**given | wrong), refuse, raising(AssertionError))


def test_closed_pipe_ends_each_verb_quietly() -> None:
    """The reader is gone before the first line; small outputs are written only when they are flushed."""
    for words in (["data", "--list"], ["validate", "--config", "configs/full_experiment.yml"]):
        done = subprocess.Popen(
            [sys.executable, "-m", "model_factory", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert done.stdout
        assert done.stderr
        done.stdout.close()
        assert (done.stderr.read(), done.wait()) == (b"", 0)


def refuse(message: str) -> NoReturn:
    raise ValueError(message)


def raising(error: type[BaseException] | None) -> Callable[[], int]:
    def work() -> int:
        if error is not None:
            raise error
        return 3

    return work
