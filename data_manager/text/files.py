"""Corpora of text files: documents are files, paragraphs, lines or pairs of lines. Also resolves relative paths."""

import bz2
import codecs
import gzip
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece, has_text, pieces
from data_manager.errors import DataError

# Read UTF-8 files in blocks of whole lines with constant memory; invalid UTF-8 is reported with its line.


BLOCK = 1 << 16


LONG_LINE = 1 << 20
"""Bytes of a line beyond which it is read in parts."""


BAD_LINE = "\udcff"
"""Placeholder of a skipped line of invalid UTF-8, so that other lines keep their numbers."""


_BOM = codecs.BOM_UTF8


_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class Block(NamedTuple):
    """Text with `\\n` line ends and the number of its first line; it ends at a line end, except in a very long line."""

    text: str
    line: int


def text_blocks(path: Path, invalid: Invalid) -> Iterator[Block]:
    """Yield the blocks of a file, without a byte order mark.

    Raise DataError for an empty or unreadable file. Lines of invalid UTF-8 are passed to `invalid`; if it does not raise,
    BAD_LINE replaces the line.
    """
    try:
        with open_binary(path) as file:
            yield from _blocks(file, path, invalid)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def text_lines(path: Path, invalid: Invalid) -> Iterator[str]:
    """Yield the lines of a file like `text_blocks`, each with its `\\n`; a line of invalid UTF-8 is empty."""
    rest = ""
    for block in text_blocks(path, invalid):
        lines = (rest + block.text).split("\n")
        rest = lines.pop()
        for line in lines:
            yield "\n" if line == BAD_LINE else line + "\n"
    if rest and rest != BAD_LINE:
        yield rest


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading bytes, decompressed if it is compressed; raise OSError."""
    return cast(BinaryIO, _COMPRESSED.get(path.suffix, open)(path, "rb"))


def _blocks(file: BinaryIO, path: Path, invalid: Invalid) -> Iterator[Block]:
    line, offset, held, empty = 1, 0, b"", True
    while data := file.read(BLOCK):
        data = held + data + file.readline(LONG_LINE)
        if offset == 0 and data.startswith(_BOM):
            data, offset = data[len(_BOM) :], len(_BOM)
            if not data:
                continue
        empty = False
        data, held = _split_incomplete(data)
        if not data:
            continue
        yield Block(_decode(data, path, line, offset, invalid).replace("\r\n", "\n"), line)
        line += data.count(b"\n")
        offset += len(data)
    if held:
        yield Block(_decode(held, path, line, offset, invalid), line)
    if empty:
        raise DataError(f"{path} is empty; remove it from data_files")


def _split_incomplete(data: bytes) -> tuple[bytes, bytes]:
    """Split before an incomplete last character, or before a last `\\r`."""
    if data.endswith(b"\n"):
        return data, b""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            cut = len(data) - back
            return (data, b"") if length == back and byte != 0x0D else (data[:cut], data[cut:])
    return data, b""


def _decode(data: bytes, path: Path, line: int, offset: int, invalid: Invalid) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        good = []
        for number, one in enumerate(_block_lines(data), line):
            try:
                good.append(one.decode())
            except UnicodeDecodeError as error:
                at = offset + error.start
                detail = f"byte 0x{one[error.start]:02x} at offset {at} is not UTF-8; save the file as UTF-8"
                invalid(f"{path}:{number}", "not UTF-8", detail)
                good.append(BAD_LINE + ("\n" if one.endswith(b"\n") else ""))
            offset += len(one)
        return "".join(good)


def _block_lines(data: bytes) -> list[bytes]:
    """Split into lines at `\\n`, keeping the line ends."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


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
        """Read a pair from each line with two texts; raise DataError if one file has more lines."""
        invalid = Invalid(self.skip_invalid, notes)
        for source, target in zip_longest(_lines(self.source, invalid), _lines(self.target, invalid)):
            if source is None or target is None:
                ignored = Invalid(True, Notes())
                counts = [sum(1 for _ in _lines(path, ignored)) for path in (self.source, self.target)]
                raise DataError(
                    f"{self.source} has {counts[0]} lines and {self.target} has {counts[1]}; line N of one must belong "
                    "to line N of the other"
                )
            sides = (source[1], target[1])
            if BAD_LINE in sides:
                continue
            if has_text(sides):
                yield Piece(sides, str(self.source), source[0])
            else:
                notes.add("empty text", f"{self.source}:{source[0]}")


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
