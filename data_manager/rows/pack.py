"""Build rows of token ids from a stream of encoded documents; anything dropped is counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from data_manager.documents import Notes
from data_manager.errors import DataError
from data_manager.row_types import RESPONSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_manager.rows.responses import Responses
    from data_manager.tokenizers.base import Flat

    Ids = NDArray[np.int32]
    Places = NDArray[np.int64]

LABELS = "labels"
"""Column of the class number, one value for each row."""
COND = "cond"
"""Column of the properties, float32, with the same size in each row."""
_TEXT, _SIZE = "_text", "_size"
STARTS = "document_starts"
"""Column of packed rows: positions at which a document begins, except position 0."""


@dataclass(frozen=True)
class Encoded:
    """Encoded pieces: concatenated ids of each side, a mask of pieces that end a document, and their positions."""

    sides: "Sequence[Flat]"
    ends: "NDArray[np.bool_]"
    places: Sequence[str]
    labels: "Ids | None" = None
    """Class numbers [documents], if documents have classes."""
    cond: "NDArray[np.float32] | None" = None
    """Properties [documents, size], if documents have properties."""
    texts: Sequence[tuple[str, ...]] = ()
    """The texts of each piece, for source columns; empty if rows have none."""
    token_ends: "Sequence[Places]" = ()
    """For each side, the positions at which tokens end in the UTF-8 bytes of its texts."""
    responses: "Responses | None" = None
    """The responses in the documents, if only those are learnt."""

    def __len__(self) -> int:
        return len(self.ends)


class RowMaker(Protocol):
    """Interface that builds columns of rows; a column is its flat values and the offsets of rows, including the end."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Add encoded pieces and return the completed rows."""
        ...

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """Return the remaining rows."""
        ...


@dataclass
class CutRows:
    """Documents with eos appended, cut every `length` tokens; with `packed`, rows cross document boundaries.

    Only the last row (of a document, or of all packed documents) may be shorter. If it would have a single token, the row
    before it gives up one token, as a row of one token has nothing to predict.
    """

    length: int
    eos: int
    packed: bool = False
    _rest: "Ids" = field(default_factory=lambda: np.empty(0, np.int32))
    _starts: "Places" = field(default_factory=lambda: np.zeros(1, np.int64))
    """Positions in `_rest` at which documents begin; packed rows only."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; packed rows have document starts."""
        return ("input_ids", STARTS) if self.packed else ("input_ids",)

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Add encoded pieces and return the completed rows."""
        ((ids, lengths),) = encoded.sides
        ends = np.cumsum(lengths)[encoded.ends]
        ids = np.insert(ids, ends, np.int32(self.eos))
        ends = ends + np.arange(1, len(ends) + 1) + len(self._rest)  # the position after each eos
        self._rest = np.concatenate([self._rest, ids])
        if self.packed:
            self._starts = np.concatenate([self._starts, ends])
            return self._take_rows(self._row_ends(0, len(self._rest), final=False))
        edges: list[int] = []
        begin = 0
        for end in ends.tolist():
            edges += self._row_ends(begin, end, final=True)
            begin = end
        return self._take_rows(edges + self._row_ends(begin, len(self._rest), final=False))

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """Return the last rows."""
        return self._take_rows(self._row_ends(0, len(self._rest), final=True))

    def held(self) -> tuple[list[int], list[int]]:
        """Return the tokens that wait for the end of their row, and the positions at which documents begin in them."""
        return self._rest.tolist(), self._starts.tolist()

    def hold(self, rest: Sequence[int], starts: Sequence[int]) -> None:
        """Continue with what `held` returned."""
        self._rest, self._starts = np.array(rest, np.int32), np.array(starts, np.int64)

    def _row_ends(self, begin: int, end: int, *, final: bool) -> list[int]:
        """Return the row ends in ids[begin:end]; unless `final`, leave at least two tokens for the next row."""
        found = list(range(begin + self.length, end if final else end - 1, self.length))
        if not final or end == begin:
            return found
        if found and end - found[-1] == 1 and self.length > 2:
            found[-1] -= 1
        return [*found, end]

    def _take_rows(self, ends: list[int]) -> "dict[str, tuple[Ids, Places]]":
        """Remove the rows that end at `ends` from the buffer and return them."""
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
    """One document or pair in each row, between `bos` and `eos`; `too_long` handles rows of more than `limit` tokens.

    A truncated row ends with `eos`, unless it has responses: a model would learn to end them in the middle. Documents
    without a token to learn are dropped and counted.
    """

    bos: int
    eos: int
    limit: int | None
    too_long: Literal["error", "skip", "cut"]
    notes: Notes
    columns: tuple[str, ...] = ("input_ids",)

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Return a row for each document that is not skipped."""
        sizes = [lengths + 2 for _, lengths in encoded.sides]
        long, empty = self._is_long(encoded), self._is_empty(encoded)
        for index in np.flatnonzero(long | empty).tolist():
            size = max(int(size[index]) for size in sizes)
            self._note(encoded.places[index], size, is_long=bool(long[index]), is_empty=bool(empty[index]))
        keep, ends = self.kept(encoded), self._has_end(encoded)
        sides = zip(self.columns, encoded.sides, strict=False)
        rows = {column: self._rows(ids, lengths, keep, ends, (self.bos, self.eos)) for column, (ids, lengths) in sides}
        if RESPONSES in self.columns:
            assert encoded.responses is not None
            marks, closed = encoded.responses.marks, encoded.responses.closed
            rows[RESPONSES] = self._rows(marks, encoded.sides[0][1], keep, ends, (False, closed[keep & ends]))
        if LABELS in self.columns:
            labels = np.empty(0, np.int32) if encoded.labels is None else encoded.labels[keep]
            rows[LABELS] = labels, np.arange(len(labels) + 1)
        if COND in self.columns:
            cond = np.empty((0, 1), np.float32) if encoded.cond is None else encoded.cond[keep]
            rows[COND] = cond.ravel(), np.arange(len(cond) + 1) * cond.shape[1]
        return rows

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """Return empty columns, as no rows are buffered."""
        return {column: (np.empty(0, value_type(column)), np.zeros(1, np.int64)) for column in self.columns}

    def kept(self, encoded: Encoded) -> "NDArray[np.bool_]":
        """Return a mask [pieces] of the documents that are not skipped."""
        long = self._is_long(encoded)
        return ~(long | self._is_empty(encoded)) if self.too_long == "skip" else ~self._is_empty(encoded)

    def body_lengths(self, lengths: "Places") -> "Places":
        """Return how many of the tokens of documents fit into their rows, [pieces]."""
        if self.limit is None:
            return lengths
        if RESPONSES in self.columns:
            return np.where(lengths + 2 > self.limit, self.limit - 1, lengths)
        return np.minimum(lengths, max(self.limit - 2, 0))

    def _has_end(self, encoded: Encoded) -> "NDArray[np.bool_]":
        """Return a mask [pieces] of rows that end with `eos`."""
        return ~self._is_long(encoded) if RESPONSES in self.columns else np.ones(len(encoded), bool)

    def _is_empty(self, encoded: Encoded) -> "NDArray[np.bool_]":
        """Return a mask [pieces] of documents without a token of a response in their rows."""
        if encoded.responses is None:
            return np.zeros(len(encoded), bool)
        lengths = encoded.sides[0][1]
        owners = np.repeat(np.arange(len(encoded)), lengths)
        inside = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        counted = encoded.responses.marks & (inside < np.repeat(self.body_lengths(lengths), lengths))
        counts = np.bincount(owners[counted], minlength=len(encoded))
        found: NDArray[np.bool_] = counts + (encoded.responses.closed & self._has_end(encoded)) == 0
        return found

    def _is_long(self, encoded: Encoded) -> "NDArray[np.bool_]":
        if self.limit is None:
            return np.zeros(len(encoded), dtype=bool)
        found: NDArray[np.bool_] = np.any([lengths + 2 > self.limit for _, lengths in encoded.sides], axis=0)
        return found

    def _note(self, place: str, size: int, *, is_long: bool, is_empty: bool) -> None:
        alone = ", and the prompt alone leaves no place for a response" if is_empty else ""
        if is_long and self.too_long == "error":
            raise DataError(
                f"{place}: {size:,} tokens exceed sequence_length {self.limit}{alone}; "
                f"increase {'it' if RESPONSES in self.columns else 'or remove it'}, or set too_long: skip or too_long: cut"
            )
        if is_empty and not (is_long and self.too_long == "skip"):
            no_place = f"a prompt that leaves no place for a response in sequence_length {self.limit}"
            self.notes.add(no_place if is_long else "no token of a response", place)
            return
        reason = f"more than sequence_length {self.limit} tokens"
        end = "the end, and the end token," if RESPONSES in self.columns else "the end"
        self.notes.add(f"{end} of documents with {reason}" if self.too_long == "cut" else reason, place)

    def _rows(
        self,
        ids: "NDArray[Any]",
        lengths: "Places",
        keep: "NDArray[np.bool_]",
        ends: "NDArray[np.bool_]",
        around: "tuple[int, int | NDArray[np.bool_]]",
    ) -> "tuple[NDArray[Any], Places]":
        """Return the values of kept rows, between the values `around`; the second one only where `ends` is True."""
        kept = self.body_lengths(lengths)
        inside = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids = ids[np.repeat(keep, lengths) & (inside < np.repeat(kept, lengths))]
        sizes = kept[keep] + 1 + ends[keep]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.empty(int(offsets[-1]), dtype=ids.dtype)
        body = np.ones(len(rows), dtype=bool)
        first, last = offsets[:-1], (offsets[1:] - 1)[ends[keep]]
        body[first] = body[last] = False
        rows[body], (rows[first], rows[last]) = ids, around
        return rows, offsets


def arrow_columns(columns: "dict[str, tuple[Ids, Places]]") -> dict[str, Any]:
    """Convert columns to Arrow values of `arrow_type`, without copying ids."""
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

    found = {}
    for name, (values, offsets) in columns.items():
        kind = arrow_type(name)
        if is_single(name):
            found[name] = pa.array(values, type=kind)
        else:
            flat = pa.array(np.asarray(values), type=kind.value_type)
            found[name] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat, type=kind)
    return found


def arrow_type(column: str) -> Any:
    """Return the Arrow type of the values of a column: lists of int32, unless it is one of the columns named here."""
    import pyarrow as pa

    if column.endswith(_TEXT):
        return pa.string()
    if column == LABELS:
        return pa.int32()
    if column == RESPONSES:
        return pa.list_(pa.bool_())
    return pa.list_(pa.float64() if column.endswith(_SIZE) else pa.float32() if column == COND else pa.int32())


def value_type(column: str) -> Any:
    """Return the numpy type of the values of a column of numbers."""
    return np.float32 if column == COND else np.bool_ if column == RESPONSES else np.int32


def is_single(column: str) -> bool:
    """Return True for a column with one value in each row, False for a column of lists."""
    return column == LABELS or column.endswith(_TEXT)


def text_column(ids: str) -> str:
    """Return the name of the column with the text of the ids in the column `ids`."""
    return ids.removesuffix("_ids") + _TEXT


def size_column(ids: str) -> str:
    """Return the name of the column with the size of that text."""
    return ids.removesuffix("_ids") + _SIZE
