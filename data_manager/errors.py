"""The one exception of this room: a corpus or a tokenizer that cannot be had, and what to do about it."""

import re
from collections.abc import Iterable
from pathlib import Path

_BACKENDS = re.compile(r" Details:\s+Exception #0 \(.*?\): (?:<class '[^']*'>: )?(.*)[\s\S]*")
MEND = "Mend the file, or leave those out that cannot be read: loading: {bad_audio: drop}"
"""The remedy for damaged audio."""


class DataError(ValueError):
    """Data that cannot be found, read or prepared; the text names the place and a remedy."""


def not_found(what: str, places: Iterable[Path], remedy: str) -> DataError:
    """A DataError that lists every place looked at, one a line."""
    looked = "".join(f"\n  {place}" for place in places)
    return DataError(f"{what} is not there; looked for{looked}\n{remedy}")


def plain(error: Exception) -> str:
    """What an error of lhotse's says, without the cut that it adds and what its other audio libraries say of the file."""
    return _BACKENDS.sub(r" \1", str(error).partition("\n[extra info]")[0].strip())
