"""Corpora: the text of a split, read in pieces, repeatedly, and never completely in memory."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from data_manager.errors import DataError

PIECE = 1 << 16


_LONGEST = 1 << 18


_LINE_START = re.compile(r"\n(?= ?\S)")


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


HashFile = Callable[[Path], str]
"""Function that returns the hash of a file's content."""


_EXAMPLES = 5
_UNKNOWN = "unknown tokens"


class Piece(NamedTuple):
    """A document, or the next part of a long document.

    `texts` is the text, or the two sides of a pair; `file` and `line` (in a table: the row) are its beginning; `label` is
    the class number, `cond` the properties; `ends` is True for the last piece of a document; `rewritten` is True for a
    text that the corpus did not read but wrote itself, such as a canonical SMILES.

    `responses` are the spans of the text, in characters, that a model learns to write; None if it learns all of it. A
    conversation comes with its `messages`, from which a tokenizer with a chat template writes the text anew; `chat` is
    `plain` for our own format, in which an end token follows each response, and `template` for that of the tokenizer.
    `hole` is the span of a hole of unknown length, see `data_manager.text.infill`.
    """

    texts: tuple[str, ...]
    file: str
    line: int
    ends: bool = True
    label: int | None = None
    cond: tuple[float, ...] = ()
    rewritten: bool = False
    responses: tuple[tuple[int, int], ...] | None = None
    messages: tuple[tuple[str, str], ...] = ()
    chat: Literal["", "plain", "template"] = ""
    hole: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.file}:{self.line}"


@dataclass
class Notes:
    """Log of skipped and suspicious lines, and of unknown tokens: the count of each reason, and the first few positions."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    """Numbers of unknown `tokens`, and of `texts` with such tokens."""
    _last: str = ""

    def add(self, reason: str, place: str, *, kept: bool = False) -> None:
        """Count one skipped line, or one that is kept although it is suspicious."""
        reason = f"{'kept' if kept else 'skipped'}: {reason}"
        self.counts[reason] += 1
        found = self.places.setdefault(reason, [])
        if len(found) < _EXAMPLES:
            found.append(place)

    def add_unknown(self, count: int, place: str) -> None:
        """Count the unknown tokens of a text that is kept; pieces of one document are one text."""
        self.unknown["tokens"] += count
        if place == self._last:
            return
        self._last = place
        self.unknown["texts"] += 1
        found = self.places.setdefault(_UNKNOWN, [])
        if len(found) < _EXAMPLES:
            found.append(place)

    def take(self) -> "Notes":
        """Return what was noted so far, and forget it."""
        taken = Notes(Counter(self.counts), dict(self.places), Counter(self.unknown), self._last)
        self.counts.clear()
        self.places.clear()
        self.unknown.clear()
        return taken

    def merge(self, later: "Notes") -> None:
        """Add what was noted later."""
        self.counts += later.counts
        self.unknown += later.unknown
        for reason, places in later.places.items():
            self.places[reason] = [*self.places.get(reason, ()), *places][:_EXAMPLES]

    def lines(self, label: str) -> list[str]:
        """Format a line for each reason, such as `train: 2 skipped: empty line (a.txt:3, 9)`."""
        found = []
        for reason, count in self.counts.items():
            found.append(f"{label}: {count:,} {reason} ({self._positions(reason, count)})")
        if self.unknown:
            tokens = _counted(self.unknown["tokens"], "unknown token")
            texts = _counted(self.unknown["texts"], "text")
            where = self._positions(_UNKNOWN, self.unknown["texts"])
            found.append(f"{label}: {tokens}, whose text is lost, in {texts} ({where})")
        return found

    def _positions(self, reason: str, count: int) -> str:
        return _format_positions(self.places[reason]) + (", ..." if count > _EXAMPLES else "")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _format_positions(places: Sequence[str]) -> str:
    """Format positions as `a.txt:3, 9, b.txt:1`, naming each file once."""
    shown, last = [], None
    for place in places:
        file, _, line = place.rpartition(":")
        shown.append(line if file == last else place)
        last = file
    return ", ".join(shown)


@dataclass(frozen=True)
class Invalid:
    """Handler of an unreadable line: raise an error, or skip the line."""

    skip: bool
    notes: Notes

    def __call__(self, place: str, reason: str, detail: str) -> None:
        """Raise DataError, or count the line under `reason` if lines are skipped."""
        if not self.skip:
            raise DataError(f"{place}: {detail}")
        self.notes.add(reason, place)


@runtime_checkable
class Corpus(Protocol):
    """Interface of the documents of one split. A corpus holds settings and paths, no text, and can be pickled."""

    def inputs(self, hash_file: HashFile) -> Any:
        """Return JSON that changes whenever the documents may change; raise DataError for a missing file."""
        ...

    def shards(self) -> "Sequence[Corpus]":
        """Return shards that can be read in parallel; concatenated they are the corpus."""
        ...

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the documents in order; skipped lines are added to `notes`. Raise DataError."""
        ...


@dataclass(frozen=True)
class Joined:
    """Concatenation of several corpora."""

    parts: tuple[Corpus, ...]

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the inputs of the parts."""
        return [part.inputs(hash_file) for part in self.parts]

    def shards(self) -> Sequence[Corpus]:
        """Return the shards of all parts."""
        return [shard for part in self.parts for shard in part.shards()]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the pieces of each part."""
        for part in self.parts:
            yield from part.read(notes)


@dataclass(frozen=True)
class Listed:
    """Corpus of texts or pairs in memory, or from a function such as `lambda: open_and_read()`."""

    texts: Iterable[Any] | Callable[[], Iterable[Any]]
    label: str

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the hash of all texts."""
        digest = sha256()
        for piece in self.read(Notes()):
            for text in piece.texts:
                data = text.encode("utf-8", "surrogatepass")
                digest.update(b"%d:" % len(data) + data)
            digest.update(b"\n")
        return digest.hexdigest()

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus as a single shard."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read a piece from each non-empty text; raise DataError for a value that is neither a text nor a pair."""
        texts = self.texts() if callable(self.texts) else self.texts
        for number, text in enumerate(texts, 1):
            sides = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, tuple | list) else (None,)
            if len(sides) > 2 or not all(isinstance(side, str) for side in sides):
                raise DataError(f"{self.label}:{number}: must be a text or a pair of texts; got {type(text).__name__}")
            if has_text(sides):
                yield Piece(sides, self.label, number)
            else:
                notes.add("empty text", f"{self.label}:{number}")


def has_text(sides: Sequence[str]) -> bool:
    """Return True if a document, or each side of a pair, holds more than white space."""
    return all(side and not side.isspace() for side in sides)


def is_paired(corpus: Corpus) -> bool | None:
    """Return True if the first document is a pair, None if the corpus is empty."""
    first = next(corpus.read(Notes()), None)
    return None if first is None else len(first.texts) == 2
