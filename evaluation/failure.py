"""Reporting of errors by the commands: the message, the JSON and the exit code, as `parse_args.py` does."""

import json
import sys
import traceback

from yaml_config.errors import UNREADABLE as UNREADABLE_CODE
from yaml_config.errors import ConfigError, Place, Problem, printable
from yaml_config.registry import UnknownNameError
from yaml_config.report import BUILD_FAILED, GOOD, INVALID, UNREADABLE, USAGE, report_failure

_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
FAILED = BUILD_FAILED
INTERRUPTED = 130
_CODES = {INVALID: "value", USAGE: "usage", UNREADABLE: UNREADABLE_CODE, FAILED: "failed"}


def report_error(error: Exception, place: str, as_json: bool) -> int:
    """Print an error on stderr, or as one JSON object on stdout; returns the exit code.

    Only unexpected types of error have a traceback.
    """
    if isinstance(error, ConfigError):
        return report_failure(error, as_json)
    if _is_out_of_memory(error):
        error = MemoryError(f"there is not enough memory for this: {str(error).splitlines()[0][:200]}")
    if not isinstance(error, ValueError | OSError | MemoryError | ImportError | UnknownNameError):
        traceback.print_exception(error)
    code = exit_code(error)
    problem = Problem(Place(place), "", _CODES[code], str(error) or type(error).__name__)
    if as_json:
        print(json.dumps({"ok": False, "errors": [problem.as_dict()]}, indent=2))
    else:
        message = "\n".join(map(printable, problem.message.split("\n")))
        print(message if message.startswith(place) else f"{problem.place}: {message}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """Return True for the RuntimeError that torch raises when memory runs out."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def exit_code(error: Exception) -> int:
    """Return 1 for a request that does not fit the run, 3 for an unreadable folder, 4 for a failure."""
    from diffusion.errors import DiffusionInputError
    from model.inputs import InputError

    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    return INVALID if isinstance(error, InputError | DiffusionInputError | UnknownNameError) else FAILED


__all__ = ["FAILED", "GOOD", "INTERRUPTED", "INVALID", "UNREADABLE", "USAGE", "exit_code", "report_error"]
