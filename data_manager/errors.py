"""`DataError`, the exception of this package, and helpers for its messages."""

import re
from collections.abc import Iterable
from pathlib import Path

_BACKENDS = re.compile(r" Details:\s+Exception #0 \(.*?\): (?:<class '[^']*'>: )?(.*)[\s\S]*")
MEND = "Repair the file, or skip unreadable audio: loading: {bad_audio: drop}"
"""Remedy for damaged audio."""


class DataError(ValueError):
    """Error of data that cannot be found, read or prepared; the message names the file and a remedy."""


def not_found(what: str, places: Iterable[Path], remedy: str) -> DataError:
    """Return a DataError that lists every path that was tried, one a line."""
    looked = "".join(f"\n  {place}" for place in places)
    return DataError(f"{what} is not there; looked for{looked}\n{remedy}")


def plain(error: Exception) -> str:
    """Return the message of a lhotse error, without the cut and without the errors of its other audio backends."""
    return _BACKENDS.sub(r" \1", str(error).partition("\n[extra info]")[0].strip())
