"""Callables that import their module at the first call, so that registering a built-in entry imports no torch."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def import_on_call(target: str) -> Callable[..., Any]:
    """Return a function that imports `target`, written `module:name`, and calls it with its own arguments."""
    module, _, name = target.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
