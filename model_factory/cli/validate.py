"""Run `parse_args.py`: check, print, summarise and build an experiment; return the exit code."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from model_factory.experiment.build import build_and_run
from model_factory.experiment.config import Experiment, read_experiment
from model_factory.experiment.custom_code import describe_error
from model_factory.experiment.json_schema import experiment_schema
from model_factory.experiment.missing_files import find_missing_files
from model_factory.experiment.print_config import print_config
from model_factory.experiment.summary import summarise_model
from model_factory.experiment.training_checks import find_notes
from model_factory.pages.target import check_target
from model_factory.yaml_config.errors import ConfigError, Problem, escape_controls, escape_line
from model_factory.yaml_config.overrides import split_override
from model_factory.yaml_config.paths import offline
from model_factory.yaml_config.plugins import import_plugins
from model_factory.yaml_config.report import BUILD_FAILED, GOOD, report_failure, stop_printing, take_any_text


def run(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> int:
    """Run with parsed options and return the exit code; `usage_error` ends the program with code 2."""
    try:
        return _run(args, usage_error)
    except BrokenPipeError:
        stop_printing()
        return GOOD


def _run(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> int:
    take_any_text()
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            usage_error(str(error))
    import_plugins(args.plugin, usage_error)
    if args.html:
        check_target(args.html, usage_error)
    if args.schema:
        print(json.dumps(experiment_schema(), indent=2))
        return GOOD
    try:
        experiment = read_experiment(args.config, args.overrides, args.only)
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
    except Exception as error:
        message = describe_error(error)
        if message == str(error) and not isinstance(error, ValueError | OSError | RuntimeError | MemoryError):
            raise
        if args.json:
            return BUILD_FAILED, {
                "build_error": f"{type(error).__name__}: {error}" if message == str(error) else message
            }
        print(escape_controls(f"{args.config}: build failed: {message}"), file=sys.stderr)
        return BUILD_FAILED, extra
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
