"""Modules of the user's own, named on the command line, that register types when they are imported."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn


def import_plugins(modules: Sequence[str], usage_error: Callable[[str], NoReturn]) -> None:
    """Import modules by name, from the working directory too; `usage_error` ends the program where that fails.

    Only then is the directory looked at, and behind what is installed: a run from elsewhere may hold a torch.py.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            usage_error(f"--plugin takes the name of a module, such as my_types; got {module!r}")
        if module.endswith(".py"):
            usage_error(f"--plugin takes the name of a module, not of a file: --plugin {module.removesuffix('.py')}")
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever stands in the user's module
            usage_error(f"--plugin {module}: {_told(error)}")


def _told(error: Exception) -> str:
    """What went wrong, and where: SyntaxError says it itself, and a module that is not there has no place."""
    if isinstance(error, ModuleNotFoundError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"
