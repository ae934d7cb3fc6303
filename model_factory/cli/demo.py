"""Run the whole pipeline on a corpus that comes with Python: check, train, generate, evaluate, plot."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from data_manager.data_manager import DatasetManager
from model.model_factory import create_model
from model_factory.cli import evaluate as evaluate_command
from model_factory.cli import generate as generate_command
from model_factory.cli import train
from model_factory.cli.options import build_verb_parser
from model_factory.cli.run_command import run_verb
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.yaml_config.errors import ConfigError, escape_controls, escape_line, report_failure
from model_factory.yaml_config.exit_codes import FAILED, GOOD

CONFIG = "configs/full_experiment.yml"
SCRIPT = "scripts/demo"
EXAMPLES = f"""\
examples:
  scripts/demo                                       the experiment {CONFIG}
  scripts/demo --set training.max_steps=20           a shorter one
  scripts/demo --config my.yml --output runs/mine    another file

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file, 4 failed, 130 interrupted"""
ROWS = 64
"""Rows of the test split that are evaluated."""


def build_parser(prog: str = SCRIPT) -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(prog, script=SCRIPT, description=__doc__ or "", examples=EXAMPLES)
    parser.set_defaults(config=CONFIG)  # its option is in the parent parser
    parser.add_argument("--output", metavar="RUN", help="the run's folder (default: the first free one of runs/demo-N)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Run the pipeline on a file and print its results; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    return run_verb(args, parser.error, lambda: _run(args, prog))


def _run(args: argparse.Namespace, prog: str) -> int:
    start = time.perf_counter()
    try:
        experiment = read_experiment(args.config, args.overrides).config
    except ConfigError as error:
        return report_failure(error, as_json=False)
    print(f"{escape_line(args.config)}: good ({time.perf_counter() - start:.2f} s)")
    try:
        describe(experiment)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        print(escape_controls(f"{args.config}: {error}"), file=sys.stderr)
        return FAILED
    return train_and_show(args, args.output or free_folder(), prog)


def describe(experiment: ExperimentConfig) -> None:
    """Build the model and load the data; print their parts and one batch. Raises ValueError if a section is missing."""
    if experiment.model is None or not experiment.datasets:
        raise ValueError("the demo needs a file with a model and a data set")
    splits = DatasetManager.load_datasets(datasets=experiment.datasets)
    model = with_vocabulary(experiment).model
    assert model is not None
    _print_table("part of the model", "parameters", _parts(create_model(model)))
    rows = [
        (f"{name} / {split}", f"{len(data):,}" if hasattr(data, "__len__") else "a stream")
        for name, parts in splits.items()
        for split, data in parts.items()
    ]
    _print_table("split of the data", "rows", rows)
    entry = experiment.datasets[0]
    rows_of_first = next(iter(splits[entry.name].values()))
    size = experiment.training.batch_size if experiment.training else 8
    batch = next(iter(DatasetManager.create_dataloader(rows_of_first, entry, batch_size=size)))
    _print_table("one batch", "shape", [(name, _shape(value)) for name, value in batch.items()])


def train_and_show(args: argparse.Namespace, run: str, prog: str) -> int:
    """Run train, generate and evaluate as a user would; return the first exit code that is not 0, or 0."""
    plugins = [part for module in args.plugin for part in ("--plugin", module)]
    overrides = [part for option in args.overrides for part in ("--set", option)]
    commands: list[tuple[str, Any, list[str]]] = [
        ("train", train.main, ["--config", args.config, "--output", run, *overrides, *plugins]),
        ("generate", generate_command.main, ["--run", run, *plugins]),
        ("evaluate", evaluate_command.main, ["--run", run, "--max-rows", str(ROWS), "--num-samples", "0", *plugins]),
    ]
    for verb, command, arguments in commands:
        program = f"{verb}.py" if prog == SCRIPT else f"{prog.rpartition(' ')[0]} {verb}"
        print(f"\n$ {'python ' if prog == SCRIPT else ''}{program} {' '.join(arguments)}", flush=True)
        code: int = command(arguments, program)
        if code:
            return code
    print(f"\nsamples at each evaluation: {run}/samples.txt; loss and learning rate: {run}/curves.png")
    return GOOD


def free_folder() -> str:
    """Return runs/demo-1, or the next folder of that form that does not exist."""
    names: Iterator[str] = (f"runs/demo-{number}" for number in range(1, 1_000_000))
    return next(name for name in names if not os.path.exists(name))


def _parts(model: Any) -> list[tuple[str, str]]:
    rows = [(name, sum(p.numel() for p in child.parameters())) for name, child in model.named_children()]
    rows = [(name, count) for name, count in rows if count]
    rows.append(("total", sum(p.numel() for p in model.parameters())))
    return [(name, f"{count:,}") for name, count in rows]


def _shape(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{len(value)} items"


def _print_table(left: str, right: str, rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(left), *(len(name) for name, _ in rows))
    height = max(len(right), *(len(text) for _, text in rows))
    print(f"\n{left:<{width}}  {right:>{height}}\n{'-' * (width + height + 2)}")
    for name, text in rows:
        print(f"{name:<{width}}  {text:>{height}}")


if __name__ == "__main__":
    sys.exit(main())
