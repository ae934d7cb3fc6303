"""Check the commands of a page that are not run: parse them with their parser and check their config."""

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from model_factory.cli.main import VERBS, module_of
from model_factory.experiment.config import read_experiment
from model_factory.sweep.grid import probe_points, read_axes

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "parse_args.py": "validate",
    "train.py": "train",
    "generate.py": "generate",
    "evaluate.py": "evaluate",
    "data_manager.data_manager": "data",
    "scripts/demo": "demo",
    "model_factory sweep": "sweep",
    "model_factory serve": "serve",
    "model_factory import": "import",
    "model_factory lm-eval": "lm-eval",
    "model_factory export": "export",
    "model_factory push": "push",
    "model_factory pull": "pull",
    "model_factory compare": "compare",
}
"""Verb of each program of a checkout."""
EXTERNAL = ("source", "sacrebleu", ".venv/bin/pip", "pip", "trap", "wait", "test")
"""External programs, which are not checked."""


def build_parser(verb: str) -> argparse.ArgumentParser:
    """Build the parser of a verb."""
    parser: argparse.ArgumentParser = import_module(module_of(verb)).build_parser()
    return parser


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace("wait; wait", "wait"), comments=True)
        if words:
            yield words


def check_command(words: Sequence[str], folder: Path) -> None:
    """Fail if the program, an option or the experiment config of a command is invalid."""
    program, *rest = words
    if program in EXTERNAL or (program == "python" and rest[:2] == ["-m", "venv"]):
        return
    rest = [word for word in rest if word != "&"]
    if program == "torchrun":
        program, rest = "python", _after_torchrun(rest)
    if program == "./run_train.sh":
        assert (ROOT / program).exists()
        default = [] if "--config" in rest else ["--config", "configs/full_experiment.yml", "--output", "runs/train-1"]
        program, rest = "python", ["train.py", *default, *rest]
    if program == "model-factory":
        program, rest = "python", ["-m", "model_factory", *rest]
    if program in SCRIPTS:
        program, rest = "python", [program, *rest]
    if program != "python":
        assert program.startswith("scripts/"), f"unknown program: {shlex.join(words)}"
        assert (ROOT / program).exists(), program
        return
    name, options = (rest[1], rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])
    if name.startswith("benchmarks.") or name in ("tools.mutation", "tools.fuzzing", "tools.documentation"):
        _check_options(name, options)
        return
    options = options[: options.index(">")] if ">" in options else options
    if name == "model_factory.interop.hf":
        _check_command_of_transformers(options)
        return
    verb, options = (options[0], options[1:]) if name == "model_factory" else (SCRIPTS[name], options)
    assert verb in VERBS, f"unknown verb: {shlex.join(words)}"
    try:
        parser = build_parser(verb)
        # lm-eval passes other options on to the harness
        args = parser.parse_known_args(options)[0] if verb == "lm-eval" else parser.parse_args(options)
    except SystemExit as error:
        raise AssertionError(f"invalid command: {shlex.join(words)}") from error
    _check_file(args, folder)


def _check_file(args: argparse.Namespace, folder: Path) -> None:
    config = getattr(args, "config", None)
    if config is not None:
        path = folder / config
        overrides = args.overrides
        if hasattr(args, "seeds"):
            axes, fixed = read_axes(overrides, args.seeds, with_ranges=args.search == "optuna")
            overrides = [*fixed, *next(probe_points(axes)).overrides]
        read_experiment(path if path.exists() else config, overrides)


def _after_torchrun(words: list[str]) -> list[str]:
    from torch.distributed.run import parse_args as torchrun_args

    args = torchrun_args(words)
    return [args.training_script, *args.training_script_args]


def _check_command_of_transformers(options: Sequence[str]) -> None:
    """Fail unless transformers has the command, with these options; it is parsed and not run."""
    from transformers.cli.transformers import app

    verb, *rest = options
    known: Any = app
    assert verb in known.commands, f"transformers has no command {verb}"
    known.commands[verb].make_context(verb, rest)


def _check_options(name: str, options: Sequence[str]) -> None:
    path = ROOT / f"{name.replace('.', '/')}"
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.exists(), name
    known = set(re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8")))
    assert {word for word in options if word.startswith("--")} <= known, f"{name} takes {sorted(known)}"
