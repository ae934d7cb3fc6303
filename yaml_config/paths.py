"""Paths in a file: their type, and `~` in them. Whether something is there is not looked at here."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _possible(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not hold the character \\0, which no path can")
    return value


PathText = Annotated[
    str, BeforeValidator(_text), AfterValidator(_possible), WithJsonSchema({"type": "string", "minLength": 1})
]
"""A path, or a name that may be one."""


def from_home(path: str | os.PathLike[str]) -> Path:
    """A path with `~` filled in; that of a user whom this machine does not know stays as it is, as in a shell."""
    return Path(os.path.expanduser(path))
