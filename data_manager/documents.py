"""What text sources give: a corpus a split, read piece by piece, as often as wanted, never whole into memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from data_manager.errors import DataError

HashFile = Callable[[Path], str]
"""The hash of a file's content."""
_EXAMPLES = 5


class Piece(NamedTuple):
    """A document, or the next part of a long one.

    `texts` is the text, or the two sides of a pair; `file` and `line` (of a table: its row) say where it begins; `label`
    is the number of its class, `cond` its properties, where it has them.
    """

    texts: tuple[str, ...]
    file: str
    line: int
    ends: bool = True
    label: int | None = None
    cond: tuple[float, ...] = ()

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.file}:{self.line}"


@dataclass
class Notes:
    """What was left out while a corpus was read: how often for each reason, and where the first few times."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Count one thing that is left out."""
        self.counts[reason] += 1
        found = self.places.setdefault(reason, [])
        if len(found) < _EXAMPLES:
            found.append(place)

    def lines(self, label: str) -> list[str]:
        """A line for each reason, such as `train: 2 left out: empty line (a.txt:3, 9)`."""
        found = []
        for reason, count in self.counts.items():
            more = ", ..." if count > _EXAMPLES else ""
            found.append(f"{label}: {count:,} left out: {reason} ({_together(self.places[reason])}{more})")
        return found


def _together(places: Sequence[str]) -> str:
    """`a.txt:3, 9, b.txt:1` for places in files, each file named once in a row."""
    shown, last = [], None
    for place in places:
        file, _, line = place.rpartition(":")
        shown.append(line if file == last else place)
        last = file
    return ", ".join(shown)


@dataclass(frozen=True)
class Invalid:
    """What to do about a line that cannot be read: stop, or leave it out."""

    skip: bool
    notes: Notes

    def __call__(self, place: str, reason: str, detail: str) -> None:
        """Raise DataError, or count the line under `reason`."""
        if not self.skip:
            raise DataError(f"{place}: {detail}")
        self.notes.add(reason, place)


@runtime_checkable
class Corpus(Protocol):
    """The documents of one split. A corpus holds settings and paths, no text, and can be sent to other processes."""

    def inputs(self, hash_file: HashFile) -> Any:
        """JSON that changes whenever the documents may have changed; raises DataError for a missing file."""
        ...

    def shards(self) -> "Sequence[Corpus]":
        """Parts that can be read at the same time; one after another they are the corpus."""
        ...

    def read(self, notes: Notes) -> Iterator[Piece]:
        """The documents in their order; what is left out goes to `notes`. Raises DataError."""
        ...


@dataclass(frozen=True)
class Joined:
    """Several corpora, one after another."""

    parts: tuple[Corpus, ...]

    def inputs(self, hash_file: HashFile) -> Any:
        """Those of the parts."""
        return [part.inputs(hash_file) for part in self.parts]

    def shards(self) -> Sequence[Corpus]:
        """The shards of all parts."""
        return [shard for part in self.parts for shard in part.shards()]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """The pieces of each part."""
        for part in self.parts:
            yield from part.read(notes)


@dataclass(frozen=True)
class Listed:
    """Texts, or pairs of them, that are in memory or that a function gives: `lambda: open_and_read()`."""

    texts: Iterable[Any] | Callable[[], Iterable[Any]]
    label: str

    def inputs(self, hash_file: HashFile) -> Any:
        """The hash of all texts."""
        digest = sha256()
        for piece in self.read(Notes()):
            for text in piece.texts:
                data = text.encode("utf-8", "surrogatepass")
                digest.update(b"%d:" % len(data) + data)
            digest.update(b"\n")
        return digest.hexdigest()

    def shards(self) -> Sequence[Corpus]:
        """Itself."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """A piece for each text that is not empty; raises DataError for what is neither text nor a pair."""
        texts = self.texts() if callable(self.texts) else self.texts
        for number, text in enumerate(texts, 1):
            sides = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, tuple | list) else (None,)
            if len(sides) > 2 or not all(isinstance(side, str) for side in sides):
                raise DataError(f"{self.label}:{number}: must be a text or a pair of texts; got {type(text).__name__}")
            if any(sides):
                yield Piece(sides, self.label, number)
            else:
                notes.add("empty text", f"{self.label}:{number}")


def is_paired(corpus: Corpus) -> bool | None:
    """Whether documents are pairs, told from the first one; None where there is none."""
    first = next(corpus.read(Notes()), None)
    return None if first is None else len(first.texts) == 2
