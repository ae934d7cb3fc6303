"""Run a verb: check the shared options, handle Ctrl-C and closed pipes, find the run folder, report errors."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from model_factory.cli.options import collect_overrides
from model_factory.cli.plugins import import_plugins
from model_factory.yaml_config.errors import UNREADABLE as UNREADABLE_CODE
from model_factory.yaml_config.errors import ConfigError, Place, Problem, escape_controls, escape_line
from model_factory.yaml_config.exit_codes import FAILED, GOOD, INTERRUPTED, INVALID, UNREADABLE, USAGE
from model_factory.yaml_config.overrides import split_override
from model_factory.yaml_config.registry import UnknownNameError
from model_factory.yaml_config.report import report_failure, stop_printing, take_any_text

Found = TypeVar("Found")
UsageError = Callable[[str], NoReturn]
"""Prints the usage and a message, and ends the program with code 2: `ArgumentParser.error`."""


def run_verb(
    args: argparse.Namespace,
    usage_error: UsageError,
    work: Callable[[], int],
    describe_interrupt: Callable[[], str] = lambda: "interrupted",
) -> int:
    """Check the shared options, import the plugins, and return the exit code of `work`.

    Ctrl-C prints `describe_interrupt()` and gives 130. A reader that closes the pipe is no error.
    """
    take_any_text()
    for name, value in vars(args).items():
        if value == "":  # an empty path would mean the working directory
            usage_error(f"--{name.replace('_', '-')} is empty; give it a value")
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            usage_error(str(error))
    import_plugins(args.plugin, usage_error)
    code = GOOD
    try:
        code = work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{escape_controls(describe_interrupt())}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        stop_printing()
    return code


def run_on_folder(
    args: argparse.Namespace,
    usage_error: UsageError,
    work: Callable[[Path, list[str]], Found],
    show: Callable[[Path, Found], int | None],
) -> int:
    """Run `work` on the folder given by --run, or on the newest run, with the config overrides; pass its result to `show`.

    Returns the exit code of `show`, 0 where it returns None; `usage_error` ends the program with code 2.
    """
    place = args.run or "runs"

    def run() -> int:
        from model_factory.evaluation.run import name_override_options, newest_run

        nonlocal place
        overrides, flags = collect_overrides(args)
        try:
            folder = Path(args.run) if args.run else newest_run()
            place = str(folder)
            if not args.run:
                print(escape_line(f"{folder}: the newest run"), file=sys.stderr)
            return show(folder, work(folder, overrides)) or GOOD
        except BrokenPipeError:
            raise
        except ConfigError as error:
            return report_error(name_override_options(error, flags), place, args.json)
        except Exception as error:
            return report_error(error, place, args.json)

    return run_verb(args, usage_error, run, lambda: f"{escape_line(place)}: interrupted")


# Reporting of errors by the commands: the message, the JSON and the exit code, as `parse_args.py` does.


_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
_CODES = {INVALID: "value", USAGE: "usage", UNREADABLE: UNREADABLE_CODE, FAILED: "failed"}


def report_error(error: Exception, place: str, as_json: bool) -> int:
    """Print an error on stderr, or as one JSON object on stdout; returns the exit code.

    Only unexpected types of error have a traceback.
    """
    if isinstance(error, ConfigError):
        return report_failure(error, as_json)
    if not _is_expected(error):
        traceback.print_exception(error)
    code, problem = exit_code(error), problem_of(error, place)
    if as_json:
        print(json.dumps({"ok": False, "errors": [problem.as_dict()]}, indent=2))
    else:
        message = "\n".join(map(escape_line, problem.message.split("\n")))
        print(message if message.startswith(place) else f"{problem.place}: {message}", file=sys.stderr)
    return code


def problem_of(error: Exception, place: str) -> Problem:
    """Return the problem that reports an error of the run at `place`."""
    message = str(error) or type(error).__name__
    if _is_out_of_memory(error):
        message = f"there is not enough memory for this: {message.splitlines()[0][:200]}"
    return Problem(Place(place), "", _CODES[exit_code(error)], message)


def _is_expected(error: Exception) -> bool:
    """Return True for an error whose message says all; others get a traceback."""
    known = ValueError | OSError | MemoryError | ImportError | UnknownNameError
    return isinstance(error, known) or _is_out_of_memory(error)


def _is_out_of_memory(error: Exception) -> bool:
    """Return True for the RuntimeError that torch raises when memory runs out."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def exit_code(error: Exception) -> int:
    """Return 1 for a request that does not fit the run, 3 for an unreadable folder, 4 for a failure."""
    from model.transformer.inputs import InputError
    from model_factory.diffusion.errors import DiffusionInputError

    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    return INVALID if isinstance(error, InputError | DiffusionInputError | UnknownNameError) else FAILED
