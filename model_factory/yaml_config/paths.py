"""Type of paths in a config, expansion of `~`, and permission to download. Existence is not checked here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
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
"""A path, or a name on the hub."""


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Expand `~` in a path; that of an unknown user is kept, as in a shell."""
    return Path(os.path.expanduser(path))


# Find the packaged configs from any folder, by their names in a checkout.


_PACKAGE = Path(__file__).resolve().parent.parent
_CHECKOUT = _PACKAGE.parent / "configs"
CONFIGS = _CHECKOUT if (_CHECKOUT / "schema.json").is_file() else _PACKAGE / "configs"
"""Folder of the packaged configs: `configs/` of a checkout (or an editable install), `model_factory/configs/` of a wheel."""


def find_config(path: str | PathLike[str]) -> Path:
    """Return `path` if it exists, else the packaged config of that name (`configs/...`) if there is one, else `path`."""
    given = Path(path)
    if os.path.exists(given) or given.is_absolute() or given.parts[:1] != (CONFIGS.name,):
        return given
    shipped = CONFIGS.joinpath(*given.parts[1:])
    if not os.path.isfile(shipped):  # also False for impossible names, for which Path's methods raise
        return given
    return shipped if shipped.resolve().is_relative_to(CONFIGS) else given


# Use of the network: where a command downloads nothing, every loader of a folder or name asks here before it does.


_reasons: list[str] = []


@contextmanager
def offline(reason: str) -> Iterator[None]:
    """Forbid downloads inside the block; folders and caches are still read, and errors give `reason`."""
    _reasons.append(reason)
    try:
        yield
    finally:
        _reasons.pop()


def forbidden_reason() -> str | None:
    """Return why nothing may be downloaded now; None outside of `offline`."""
    return _reasons[-1] if _reasons else None
