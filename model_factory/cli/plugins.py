"""Import custom modules named on the command line, which register types."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn


def import_plugins(modules: Sequence[str], usage_error: Callable[[str], NoReturn]) -> None:
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
            importlib.import_module(module)
        except Exception as error:  # a custom module may raise anything
            usage_error(f"--plugin {module}: {_describe(error)}")


def _describe(error: Exception) -> str:
    """Describe an error with its file and line; SyntaxError has them, and a missing module has none."""
    if isinstance(error, ModuleNotFoundError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"
