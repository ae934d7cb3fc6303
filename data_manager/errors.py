"""The one exception of this room: a corpus or a tokenizer that cannot be had, and what to do about it."""

from collections.abc import Iterable
from pathlib import Path


class DataError(ValueError):
    """Data that cannot be found, read or prepared; the text names the place and a remedy."""


def not_found(what: str, places: Iterable[Path], remedy: str) -> DataError:
    """A DataError that lists every place looked at, one a line."""
    looked = "".join(f"\n  {place}" for place in places)
    return DataError(f"{what} is not there; looked for{looked}\n{remedy}")
