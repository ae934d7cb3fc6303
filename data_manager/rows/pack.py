"""Build rows of token ids from a stream of encoded documents; anything dropped is counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from data_manager.documents import Notes
from data_manager.errors import DataError
from data_manager.text.infill import SEPARATORS, given_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_manager.tokenizers.base import Flat

    Ids = NDArray[np.int32]
    Places = NDArray[np.int64]

LABELS = "labels"
"""Column of the class number, one value for each row."""
COND = "cond"
"""Column of the properties, float32, with the same size in each row."""
RESPONSE = "response_mask"
"""Column of bools [tokens], True at the tokens of responses."""
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
    """One document or pair in each row, between `bos` and `eos`; `too_long` handles rows of more than `limit` tokens."""

    bos: int
    eos: int
    limit: int | None
    too_long: Literal["error", "skip", "cut"]
    notes: Notes
    columns: tuple[str, ...] = ("input_ids",)
    ways_out: ClassVar[str] = "too_long: skip or too_long: cut"

    @property
    def text_sides(self) -> Sequence[int]:
        """For each column of ids, the side whose text it has."""
        return range(len([name for name in self.columns if name.endswith("_ids")]))

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Return a row for each document that is not skipped."""
        sizes = [lengths + 2 for _, lengths in encoded.sides]
        for index in np.flatnonzero(self._is_long(encoded)).tolist():
            self._note(encoded.places[index], max(int(size[index]) for size in sizes))
        keep = self.kept(encoded)
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
        """Return empty columns, as no rows are buffered."""
        return {column: (np.empty(0, np.int32), np.zeros(1, np.int64)) for column in self.columns}

    def kept(self, encoded: Encoded) -> "NDArray[np.bool_]":
        """Return a mask [pieces] of the documents that are not skipped."""
        long = self._is_long(encoded)
        return ~long if self.too_long == "skip" else np.ones_like(long)

    def body_lengths(self, lengths: "Places") -> "Places":
        """Return how many of the tokens of documents fit into their rows, [pieces]."""
        return lengths if self.limit is None else np.minimum(lengths, max(self.limit - 2, 0))

    def _is_long(self, encoded: Encoded) -> "NDArray[np.bool_]":
        if self.limit is None:
            return np.zeros(len(encoded), dtype=bool)
        found: NDArray[np.bool_] = np.any([lengths + 2 > self.limit for _, lengths in encoded.sides], axis=0)
        return found

    def _note(self, place: str, size: int) -> None:
        if self.too_long == "error":
            raise DataError(
                f"{place}: {size:,} tokens exceed sequence_length {self.limit}; increase or remove it, or "
                f"set {self.ways_out}"
            )
        reason = f"more than sequence_length {self.limit} tokens"
        self.notes.add(f"the end of documents with {reason}" if self.too_long == "cut" else reason, place)

    def _rows(self, ids: "Ids", lengths: "Places", keep: "NDArray[np.bool_]") -> "tuple[Ids, Places]":
        kept = self.body_lengths(lengths)
        inside = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids = ids[np.repeat(keep, lengths) & (inside < np.repeat(kept, lengths))]
        sizes = kept[keep] + 2
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.empty(int(offsets[-1]), dtype=np.int32)
        body = np.ones(len(rows), dtype=bool)
        body[offsets[:-1]] = body[offsets[1:] - 1] = False
        rows[offsets[:-1]], rows[offsets[1:] - 1], rows[body] = self.bos, self.eos, ids
        return rows, offsets


@dataclass
class InfillRows(WholeRows):
    """Rows of `limit` tokens with a hole: `bos prefix bos suffix bos middle eos eos ...`, the middle and all ends responses.

    A piece has the sides prefix, suffix and middle.
    """

    columns: tuple[str, ...] = ("input_ids", RESPONSE)
    ways_out: ClassVar[str] = "too_long: skip"

    @property
    def text_sides(self) -> Sequence[int]:
        """The text of a row is its middle."""
        return (2,)

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Return a row for each document that is not skipped."""
        assert self.limit is not None
        sizes = self._sizes(encoded)
        for index in np.flatnonzero(sizes > self.limit).tolist():
            self._note(encoded.places[index], int(sizes[index]))
        keep = self.kept(encoded)
        rows = np.full((int(keep.sum()), self.limit), self.eos, np.int32)
        mask = np.ones(rows.shape, np.int32)
        sides = [np.split(ids, np.cumsum(lengths)[:-1]) for ids, lengths in encoded.sides]
        chosen = ([side[index] for side in sides] for index in np.flatnonzero(keep).tolist())
        for number, (prefix, suffix, middle) in enumerate(chosen):
            given = given_ids(self.bos, prefix, suffix)
            rows[number, : len(given)] = given
            rows[number, len(given) : len(given) + len(middle)] = middle
            mask[number, : len(given)] = 0
        offsets = np.arange(len(rows) + 1) * self.limit
        return {"input_ids": (rows.ravel(), offsets), RESPONSE: (mask.ravel(), offsets)}

    def _is_long(self, encoded: Encoded) -> "NDArray[np.bool_]":
        found: NDArray[np.bool_] = self._sizes(encoded) > self.limit
        return found

    def _sizes(self, encoded: Encoded) -> "Places":
        """Return the number of tokens of each row with one end token, [pieces]."""
        total: Places = np.sum([lengths for _, lengths in encoded.sides], axis=0)
        return total + SEPARATORS + 1


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
    return pa.list_(pa.float64() if column.endswith(_SIZE) else pa.float32() if column == COND else pa.int32())


def is_single(column: str) -> bool:
    """Return True for a column with one value in each row, False for a column of lists."""
    return column == LABELS or column.endswith(_TEXT)


def text_column(ids: str) -> str:
    """Return the name of the column with the text of the ids in the column `ids`."""
    return ids.removesuffix("_ids") + _TEXT


def size_column(ids: str) -> str:
    """Return the name of the column with the size of that text."""
    return ids.removesuffix("_ids") + _SIZE
