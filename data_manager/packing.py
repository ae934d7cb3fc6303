"""Encoded documents to rows of token ids; nothing is dropped unless it is counted. Works on a stream, a part at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from data_manager.documents import Notes
from data_manager.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_manager.tokenizer_base import Flat

    Ids = NDArray[np.int32]
    Places = NDArray[np.int64]

LABELS = "labels"
"""Column of rows with a class: its number, one value a row."""
COND = "cond"
"""Column of rows with properties: their numbers, float32, as many in each row."""
STARTS = "document_starts"
"""Column of packed rows: positions in the row, but the first, at which a document begins."""


@dataclass(frozen=True)
class Encoded:
    """Pieces of documents: the ids of each side one after another, which pieces end a document, where each begins."""

    sides: "Sequence[Flat]"
    ends: "NDArray[np.bool_]"
    places: Sequence[str]
    labels: "Ids | None" = None
    """Numbers of their classes, where documents have one."""
    cond: "NDArray[np.float32] | None" = None
    """Their properties [documents, size], where they have some."""

    def __len__(self) -> int:
        return len(self.ends)


class RowMaker(Protocol):
    """Makes columns of rows; a column is the flat values and the offsets at which rows begin, the last one its end."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """The rows that are complete."""
        ...

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """The rows that are left."""
        ...


@dataclass
class CutRows:
    """Documents, each with an end token behind it, cut every `length` tokens; `packed` cuts across them.

    Only the last row (of a document; of all where they are packed) may be shorter; the one before it gives a token up
    where it would have but one, as a row of one token has nothing to predict.
    """

    length: int
    eos: int
    packed: bool = False
    _rest: "Ids" = field(default_factory=lambda: np.empty(0, np.int32))
    _starts: "Places" = field(default_factory=lambda: np.zeros(1, np.int64))
    """Where documents begin, counted from the beginning of `_rest`; packed rows only."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Packed rows tell where documents begin."""
        return ("input_ids", STARTS) if self.packed else ("input_ids",)

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """The rows that are complete."""
        ((ids, lengths),) = encoded.sides
        ends = np.cumsum(lengths)[encoded.ends]
        ids = np.insert(ids, ends, np.int32(self.eos))
        ends = ends + np.arange(1, len(ends) + 1) + len(self._rest)  # behind each end token
        self._rest = np.concatenate([self._rest, ids])
        if self.packed:
            self._starts = np.concatenate([self._starts, ends])
            return self._take(self._cuts(0, len(self._rest), final=False))
        edges: list[int] = []
        begin = 0
        for end in ends.tolist():
            edges += self._cuts(begin, end, final=True)
            begin = end
        return self._take(edges + self._cuts(begin, len(self._rest), final=False))

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """The last rows."""
        return self._take(self._cuts(0, len(self._rest), final=True))

    def _cuts(self, begin: int, end: int, *, final: bool) -> list[int]:
        """Where the rows of ids[begin:end] end; where more follows, at least two tokens are left over for it."""
        found = list(range(begin + self.length, end if final else end - 1, self.length))
        if not final or end == begin:
            return found
        if found and end - found[-1] == 1 and self.length > 2:
            found[-1] -= 1
        return [*found, end]

    def _take(self, ends: list[int]) -> "dict[str, tuple[Ids, Places]]":
        """The rows that end at `ends`, taken out of what is kept."""
        offsets = np.array([0, *ends], dtype=np.int64)
        last = offsets[-1]
        ids, self._rest = self._rest[:last], self._rest[last:]
        rows = {"input_ids": (ids, offsets)}
        if self.packed:
            inside = self._starts[self._starts < last]
            self._starts = self._starts[self._starts >= last] - last
            row = np.searchsorted(offsets, inside, side="right") - 1
            later = inside > offsets[row]
            counts = np.bincount(row[later], minlength=len(offsets) - 1)
            values = (inside - offsets[row])[later].astype(np.int32)
            rows[STARTS] = values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return rows


@dataclass
class WholeRows:
    """A document a row, or a pair, between `bos` and `eos`; what has more than `limit` tokens is dealt with as asked."""

    bos: int
    eos: int
    limit: int | None
    too_long: Literal["error", "skip", "cut"]
    notes: Notes
    columns: tuple[str, ...] = ("input_ids",)

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """A row for each document that is not left out."""
        keep = np.ones(len(encoded), dtype=bool)
        sizes = [lengths + 2 for _, lengths in encoded.sides]
        if self.limit is not None:
            long = np.any([size > self.limit for size in sizes], axis=0)
            for index in np.flatnonzero(long).tolist():
                self._note(encoded.places[index], max(int(size[index]) for size in sizes))
            keep = ~long if self.too_long == "skip" else keep
        sides = zip(self.columns, encoded.sides, strict=False)
        rows = {column: self._rows(ids, lengths, keep) for column, (ids, lengths) in sides}
        if LABELS in self.columns:
            labels = np.empty(0, np.int32) if encoded.labels is None else encoded.labels[keep]
            rows[LABELS] = labels, np.arange(len(labels) + 1)
        if COND in self.columns:
            cond = np.empty((0, 1), np.float32) if encoded.cond is None else encoded.cond[keep]
            rows[COND] = cond.ravel(), np.arange(len(cond) + 1) * cond.shape[1]  # type: ignore[assignment]
        return rows

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """Nothing is left."""
        return {column: (np.empty(0, np.int32), np.zeros(1, np.int64)) for column in self.columns}

    def _note(self, place: str, size: int) -> None:
        if self.too_long == "error":
            raise DataError(
                f"{place}: {size:,} tokens are more than sequence_length {self.limit}; raise it or leave it out, or "
                "say too_long: skip or too_long: cut"
            )
        told = f"more than sequence_length {self.limit} tokens"
        self.notes.add(f"the end of what has {told}" if self.too_long == "cut" else told, place)

    def _rows(self, ids: "Ids", lengths: "Places", keep: "NDArray[np.bool_]") -> "tuple[Ids, Places]":
        kept = lengths if self.limit is None else np.minimum(lengths, max(self.limit - 2, 0))
        inside = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids = ids[np.repeat(keep, lengths) & (inside < np.repeat(kept, lengths))]
        sizes = kept[keep] + 2
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.empty(int(offsets[-1]), dtype=np.int32)
        body = np.ones(len(rows), dtype=bool)
        body[offsets[:-1]] = body[offsets[1:] - 1] = False
        rows[offsets[:-1]], rows[offsets[1:] - 1], rows[body] = self.bos, self.eos, ids
        return rows, offsets


def arrow_columns(columns: "dict[str, tuple[Ids, Places]]") -> dict[str, Any]:
    """Columns as Arrow lists of int32, without a copy of the ids; labels as int32, properties as lists of float32."""
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

    found = {}
    for name, (values, offsets) in columns.items():
        kind = arrow_type(name)
        if name == LABELS:
            found[name] = pa.array(values)
        else:
            values = values.astype(np.float32 if name == COND else np.int32, copy=False)
            found[name] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), type=kind)
    return found


def arrow_type(column: str) -> Any:
    """The Arrow type of a column's values."""
    import pyarrow as pa

    return pa.int32() if column == LABELS else pa.list_(pa.float32() if column == COND else pa.int32())
