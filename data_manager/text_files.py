"""Corpora of text files: documents are files, paragraphs, lines or pairs of lines. Also resolves relative paths."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from data_manager.dataset_types import DatasetConfig
from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece
from data_manager.errors import DataError, not_found
from data_manager.text_blocks import BAD_LINE, text_blocks
from yaml_config.paths import from_home

PIECE = 1 << 16
_LONGEST = 1 << 18
_LINE_START = re.compile(r"\n(?= ?\S)")


def places_of(path: str, config: DatasetConfig) -> Iterator[Path]:
    """Yield the candidates of a path of a data set: as given, in corpus_dir/name, in corpus_dir."""
    given = from_home(path)
    yield full_path(given)
    if not given.is_absolute():
        corpora = full_path(config.global_config.corpus_dir)
        yield corpora / config.name / given
        yield corpora / given


def full_path(path: str | Path) -> Path:
    """Return the absolute path, with `~` and `..` resolved."""
    return Path(os.path.abspath(from_home(path)))


def find_path(path: str, config: DatasetConfig, what: str) -> Path:
    """Return the first candidate of `path` that exists; raise DataError that lists all candidates."""
    return find_paths(path, config, what)[0]


def find_paths(path: str, config: DatasetConfig, what: str) -> list[Path]:
    """Return the files that `path` matches, sorted, if it has `*` or `?`; raise DataError like `find_path`."""
    places = list(places_of(path, config))
    for place in places:
        if os.path.exists(place):  # False, too, for a name that is too long
            return [place]
        matches = [full_path(match) for match in sorted(glob.glob(str(place), recursive=True))]
        if matches:
            return [match for match in matches if match.is_file()] or matches
    name = f"data set {config.name!r}: {what} {path!r}"
    raise not_found(name, places, "Move it to one of these paths, or set global_config.corpus_dir to its folder.")


@dataclass(frozen=True)
class TextFile:
    """Corpus of one text file."""

    path: Path
    documents: Literal["file", "paragraph", "line"] = "file"
    skip_invalid: bool = False

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the hash of the content, and the settings."""
        return [hash_file(self.path), self.documents, self.skip_invalid]

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus as a single shard."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the documents; empty ones are skipped, and counted if they are lines."""
        invalid = Invalid(self.skip_invalid, notes)
        name = str(self.path)
        if self.documents == "file":
            yield from _whole_file(self.path, invalid)
            return
        found = _lines(self.path, invalid) if self.documents == "line" else _paragraphs(self.path, invalid)
        for number, text in found:
            if text.strip() and text != BAD_LINE:
                yield Piece((text,), name, number)
            elif text != BAD_LINE:
                notes.add("empty line", f"{name}:{number}")


@dataclass(frozen=True)
class PairedFiles:
    """Corpus of two line-aligned files."""

    source: Path
    target: Path
    skip_invalid: bool = False

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the hashes of both contents, and the settings."""
        return [hash_file(self.source), hash_file(self.target), self.skip_invalid]

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus as a single shard."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read a pair from each line; raise DataError if one file has more lines."""
        invalid = Invalid(self.skip_invalid, notes)
        for source, target in zip_longest(_lines(self.source, invalid), _lines(self.target, invalid)):
            if source is None or target is None:
                ignored = Invalid(True, Notes())
                counts = [sum(1 for _ in _lines(path, ignored)) for path in (self.source, self.target)]
                raise DataError(
                    f"{self.source} has {counts[0]} lines and {self.target} has {counts[1]}; line N of one must belong "
                    "to line N of the other"
                )
            if BAD_LINE not in (source[1], target[1]):
                yield Piece((source[1], target[1]), str(self.source), source[0])


def pieces(blocks: Iterator[str], size: int = PIECE) -> Iterator[str]:
    """Split a text that comes in blocks into chunks of `size` characters or a little more.

    A chunk ends before a line that begins with at most one space, as no GPT-2 token crosses such a boundary. Without such
    lines it ends before a space, and without spaces after a quarter of a million characters.
    """
    text = ""
    for block in blocks:
        text += block
        start = 0
        while cut := _LINE_START.search(text, start + size - 1):
            yield text[start : cut.end()]
            start = cut.end()
        while len(text) - start > _LONGEST:
            space = text.rfind(" ", start + _LONGEST // 2, start + _LONGEST)
            end = space if space > 0 else start + _LONGEST
            yield text[start:end]
            start = end
        text = text[start:]
    if text:
        yield text


def _whole_file(path: Path, invalid: Invalid) -> Iterator[Piece]:
    held: str | None = None
    for text in pieces(_without_bad_lines(path, invalid)):
        if held is not None:
            yield Piece((held,), str(path), 1, ends=False)
        held = text
    if held is not None:
        yield Piece((held,), str(path), 1)


def _without_bad_lines(path: Path, invalid: Invalid) -> Iterator[str]:
    for block in text_blocks(path, invalid):
        if BAD_LINE in block.text:
            yield block.text.replace(f"{BAD_LINE}\n", "").replace(BAD_LINE, "")
        else:
            yield block.text


def _lines(path: Path, invalid: Invalid) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers, without `\\n`; other Unicode line ends are kept."""
    rest, line = "", 1
    for block in text_blocks(path, invalid):
        if not rest:
            line = block.line
        lines = (rest + block.text).split("\n")
        rest = lines.pop()
        yield from enumerate(lines, line)
        line += len(lines)
    if rest:
        yield line, rest


def _paragraphs(path: Path, invalid: Invalid) -> Iterator[tuple[int, str]]:
    held: list[str] = []
    first = 1
    for number, text in _lines(path, invalid):
        if text == BAD_LINE:
            continue
        if text.strip():
            first = first if held else number
            held.append(text)
        elif held:
            yield first, "\n".join(held)
            held = []
    if held:
        yield first, "\n".join(held)
