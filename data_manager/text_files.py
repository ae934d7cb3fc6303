"""Text files: where a relative path is looked for, and what can be wrong with a file. Text is UTF-8."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError, not_found


def places_of(path: str, config: DatasetConfig) -> Iterator[Path]:
    """Where a path of a data set may lie: as given, in corpus_dir/name, in corpus_dir."""
    given = Path(path).expanduser()
    yield full_path(given)
    if not given.is_absolute():
        corpora = full_path(config.global_config.corpus_dir)
        yield corpora / config.name / given
        yield corpora / given


def full_path(path: str | Path) -> Path:
    """A path from the root, `~` and `..` taken out."""
    return Path(os.path.abspath(Path(path).expanduser()))


def find_path(path: str, config: DatasetConfig, what: str) -> Path:
    """The first place of `path` that is there; raises DataError with all places looked at."""
    places = list(places_of(path, config))
    for place in places:
        if place.exists():
            return place
    name = f"data set {config.name!r}: {what} {path!r}"
    raise not_found(name, places, "Put it in one of these places, or set global_config.corpus_dir to its folder.")


def read_text(path: Path) -> str:
    """The text of a file, with line ends as `\\n` and without a byte order mark.

    Raises DataError for a folder, an empty or unreadable file, and for bytes that are not UTF-8.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the files in it: [{path / 'a.txt'}, {path / 'b.txt'}]")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[offset]:02x} at offset {offset} is not UTF-8; save the file as UTF-8"
        ) from error
    if not text:
        raise DataError(f"{path} is empty; take it out of data_files, or fill it")
    return text.replace("\r\n", "\n")


def read_lines(path: Path) -> list[str]:
    """Lines of a file without their ends; other characters that Unicode counts as line ends are left alone."""
    return read_text(path).removesuffix("\n").split("\n")
