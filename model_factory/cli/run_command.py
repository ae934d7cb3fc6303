"""Run a verb: check the shared options, handle Ctrl-C and closed pipes, find the run folder, report errors."""

import argparse
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from model_factory.cli.options import collect_overrides
from model_factory.training.errors import is_out_of_memory
from model_factory.yaml_config.errors import UNREADABLE as UNREADABLE_CODE
from model_factory.yaml_config.errors import ConfigError, Place, Problem, escape_controls, escape_line, report_failure
from model_factory.yaml_config.exit_codes import FAILED, GOOD, INTERRUPTED, INVALID, UNREADABLE, USAGE
from model_factory.yaml_config.overrides import split_override
from model_factory.yaml_config.process import end_output, raise_on_interrupt, take_any_text
from model_factory.yaml_config.registry import UnknownNameError

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

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
    code = GOOD
    raise_on_interrupt(lambda: escape_controls(describe_interrupt()))
    try:
        take_any_text()
        _check_shared_options(args, usage_error)
        code = work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
        with suppress(OSError):
            print(f"\n{escape_controls(describe_interrupt())}", file=sys.stderr)
    except BrokenPipeError:
        pass
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
        code = FAILED
    finally:
        raise_on_interrupt(None)
    end_output()
    return code


def _check_shared_options(args: argparse.Namespace, usage_error: UsageError) -> None:
    """Check the options that verbs share, and import the plugins."""
    for name, value in vars(args).items():
        if value == "":  # an empty path would mean the working directory
            usage_error(f"--{name.replace('_', '-')} is empty; give it a value")
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            usage_error(str(error))
    import_plugins(args.plugin, usage_error)


# Import of custom modules named on the command line, which register types.


def import_plugins(modules: Sequence[str], usage_error: UsageError) -> None:
    """Import modules by name, also from the working directory; `usage_error` ends the program if that fails.

    The directory is searched only with --plugin, and after installed packages: it may hold a torch.py.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            usage_error(f"--plugin takes the name of a module, such as my_types; got {module!r}")
        if module.endswith(".py"):
            usage_error(f"--plugin takes the name of a module, not of a file: --plugin {module.removesuffix('.py')}")
        try:
            import_module(module)
        except Exception as error:  # a custom module may raise anything
            usage_error(f"--plugin {module}: {_describe_import_error(error)}")


def _describe_import_error(error: Exception) -> str:
    """Describe an error with its file and line; SyntaxError has them, and a missing module has none."""
    if isinstance(error, ModuleNotFoundError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"


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


def announce_device(run: "LoadedRun") -> str:
    """Print the device that a run's model is on to standard error, and return it."""
    device = run.describe_device()
    print(escape_line(f"{run.folder}: on {device}"), file=sys.stderr)
    return device


# Reporting of errors by the commands: the message, the JSON and the exit code, as `parse_args.py` does.


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
    if is_out_of_memory(error):
        message = f"there is not enough memory for this: {message.splitlines()[0][:200]}"
    return Problem(Place(place), "", _CODES[exit_code(error)], message)


def _is_expected(error: Exception) -> bool:
    """Return True for an error whose message says all; others get a traceback."""
    known = ValueError | OSError | MemoryError | ImportError | UnknownNameError
    return isinstance(error, known) or is_out_of_memory(error)


def exit_code(error: Exception) -> int:
    """Return 1 for a request that does not fit the run, 3 for an unreadable folder, 4 for a failure."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    from model.transformer.inputs import InputError
    from model_factory.diffusion.errors import DiffusionInputError

    return INVALID if isinstance(error, InputError | DiffusionInputError | UnknownNameError) else FAILED
