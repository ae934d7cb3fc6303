"""Verb `validate`: check, print, summarise and build an experiment."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from model_factory.cli.options import build_verb_parser
from model_factory.cli.run_command import run_verb
from model_factory.experiment.config import DATA_SECTIONS, MODEL_SECTIONS, SECTIONS, Experiment, read_experiment
from model_factory.experiment.custom_code import describe_error
from model_factory.experiment.path_values import find_missing_files
from model_factory.experiment.training_checks import find_notes
from model_factory.yaml_config.errors import ConfigError, Problem, escape_controls, escape_line, report_failure
from model_factory.yaml_config.exit_codes import FAILED, GOOD
from model_factory.yaml_config.paths import offline
from model_factory.yaml_config.registry import import_on_call

# Options that most checks do without: their modules are imported at the first call, which saves a check 15 ms.
build_and_run = import_on_call("model_factory.experiment.build:build_and_run")
experiment_schema = import_on_call("model_factory.experiment.json_schema:experiment_schema")
print_config = import_on_call("model_factory.experiment.print_config:print_config")
summarise_model = import_on_call("model_factory.experiment.summary:summarise_model")
check_target = import_on_call("model_factory.pages.target:check_target")

EXAMPLES = """\
examples:
  python parse_args.py --config configs/full_experiment.yml
  python parse_args.py --config my.yml --set model.encoder.dropout=0.2 --print-config
  python parse_args.py --config my.yml --summary --html my_model.html
  python parse_args.py --schema > configs/schema.json

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file, 4 build failed, 130 interrupted"""


def build_parser(prog: str = "parse_args.py") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(
        prog,
        script="python parse_args.py",
        description="Check an experiment's file completely, before anything is built.",
        examples=EXAMPLES,
        shared=("config", "set", "plugin", "json"),
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--model-only", action="store_true", help="check only the section `model`")
    only.add_argument("--data-only", action="store_true", help="check only `global_config` and `datasets`")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved file, each value with its origin"
    )
    parser.add_argument("--schema", action="store_true", help="print a JSON Schema of the file, for editors")
    parser.add_argument(
        "--summary", action="store_true", help="parameters, memory and FLOPs, without allocating weights"
    )
    parser.add_argument("--html", metavar="FILE", help="with --summary: also write it as a page with pictures")
    parser.add_argument(
        "--build",
        action="store_true",
        help="build the model, run it forward once, and train one step where the data are there",
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "parse_args.py") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if not args.config and not args.schema:
        parser.error("give the file to check: --config experiment.yml")
    if args.html and not args.summary:
        parser.error("--html goes with --summary")
    if args.html:
        check_target(args.html, parser.error)
    return run_verb(args, parser.error, lambda: _print_schema() if args.schema else _check(args))


def _print_schema() -> int:
    print(json.dumps(experiment_schema(), indent=2))
    return GOOD


def _check(args: argparse.Namespace) -> int:
    """Check the file, and print, summarise or build as asked; return the exit code."""
    only = MODEL_SECTIONS if args.model_only else DATA_SECTIONS if args.data_only else SECTIONS
    try:
        experiment = read_experiment(args.config, args.overrides, only)
    except ConfigError as error:
        return report_failure(error, args.json)

    missing = find_missing_files(experiment)
    notes = [*missing, *find_notes(experiment.context)]
    code, extra = _after_check(args, experiment, missing)
    if args.json:
        report = {"ok": code == GOOD, "errors": [], "notes": [note.as_dict() for note in notes]}
        print(json.dumps({**report, "config": experiment.config.to_dict(), **extra}, indent=2))
    elif code == GOOD:
        for note in notes:
            print(f"note: {note.headline()}", file=sys.stderr)
    return code


def _after_check(
    args: argparse.Namespace, experiment: Experiment, missing: list[Problem]
) -> tuple[int, dict[str, Any]]:
    """Print, summarise or build as asked; return the exit code and the entries that `--json` adds."""
    extra: dict[str, Any] = {}
    if args.print_config and not args.json:
        sys.stdout.write(print_config(experiment))
    try:
        if args.summary:
            summary = summarise_model(experiment.config)
            extra["summary"] = summary.as_dict()
            if not args.json:
                print(escape_controls(summary.table()))
            if args.html:
                from model_factory.pages.document import write_page
                from model_factory.pages.summary_page import render_summary_page

                write_page(args.html, render_summary_page(experiment.config, summary))
                print(escape_line(f"page written to {args.html}"), file=sys.stderr)
        if args.build:
            _build(args, experiment, missing, extra)
    except BrokenPipeError:
        raise
    except Exception as error:
        message = describe_error(error)
        if message == str(error) and not isinstance(error, ValueError | OSError | RuntimeError | MemoryError):
            raise
        if args.json:
            return FAILED, {"build_error": f"{type(error).__name__}: {error}" if message == str(error) else message}
        print(escape_controls(f"{args.config}: build failed: {message}"), file=sys.stderr)
        return FAILED, extra
    if not (args.print_config or args.summary or args.build or args.json):
        print(escape_line(_verdict(args.config, experiment)))
    return GOOD, extra


def _build(args: argparse.Namespace, experiment: Experiment, missing: list[Problem], extra: dict[str, Any]) -> None:
    """Build the model and, where the data are here, try a training step; nothing is downloaded."""
    with offline("--build downloads nothing"):
        built = build_and_run(experiment.config)
        extra["build"] = built.as_dict()
        if not args.json:
            print(escape_controls(built.text()))
        from model_factory.training.trial import can_try, try_step

        if not missing and can_try(experiment.config):
            trial = try_step(experiment.config)
            if not math.isfinite(trial.loss):
                raise ValueError(f"the loss of the first step is {trial.loss}")
            extra["step"] = trial.as_dict()
            if not args.json:
                print(escape_controls(trial.text()))


def _verdict(path: str, experiment: Experiment) -> str:
    """Return one line that names the checked sections."""
    config, parts = experiment.config, []
    if config.model is not None:
        parts.append(f"model {config.model.name!r} ({config.model.model_type})")
    if config.datasets is not None:
        count = len(config.datasets)
        names = ", ".join(entry.name for entry in config.datasets)
        parts.append(f"{count} data set{'s' if count != 1 else ''} ({names})")
    parts += [name for name in ("training", "generation") if getattr(config, name) is not None]
    return f"{path}: good: {', '.join(parts) or 'global_config'}"
