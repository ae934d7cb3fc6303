"""Source columns: the text of each row as the corpus has it, and how many of its characters and bytes the tokens cover.

Figures per character and scores against a text need them, because decoding a row does not give the text back: a row may end
inside a character, and a tokenizer may lose words. Only the rows of an evaluation have these columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_manager.rows.pack import Encoded, RowMaker, WholeRows, size_column, text_column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_manager.rows.pack import Ids, Places

_UNIT = 12
"""Parts of a character: a byte of a character of 1, 2, 3 or 4 bytes is a whole number of twelfths."""


class SourceSize(NamedTuple):
    """Characters and bytes of the text of a row, in the order of the column `..._size`.

    `characters` and `bytes` are those that the row's tokens cover. A character that is divided between rows counts as a
    fraction in each, by its bytes. `first_...` are those of the row's first token, `cut_...` those after a truncated row.
    In rows with responses, only the text of responses counts.
    """

    characters: Any
    bytes: Any
    first_characters: Any
    first_bytes: Any
    cut_characters: Any
    cut_bytes: Any


def source_batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate the source columns of rows: `..._text` as a list of texts, `..._size` as float64 [B, 6] of `SourceSize`.

    Other columns, and rows without source columns, give no entries.
    """
    found: dict[str, Any] = {}
    for ids in [name for name in rows[0] if name.endswith("_ids")]:
        if text_column(ids) in rows[0]:
            found[text_column(ids)] = [str(row[text_column(ids)]) for row in rows]
            found[size_column(ids)] = np.array([row[size_column(ids)] for row in rows], np.float64)
    return found


class _Text:
    """UTF-8 bytes of text with, for each byte, its share of a character in twelfths."""

    def __init__(self, data: "NDArray[np.uint8]", shares: "NDArray[np.int8]") -> None:
        self.data, self.shares = data, shares

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Text":
        data = np.frombuffer("".join(texts).encode("utf-8", "surrogatepass"), np.uint8)
        first = data[(data & 0xC0) != 0x80]
        sizes = 1 + (first >= 0xC0).astype(np.int64) + (first >= 0xE0) + (first >= 0xF0)
        return cls(data, np.repeat(_UNIT // sizes, sizes).astype(np.int8))

    def join(self, other: "_Text") -> "_Text":
        """Append a text."""
        return _Text(np.concatenate([self.data, other.data]), np.concatenate([self.shares, other.shares]))

    def after(self, position: int) -> "_Text":
        """Return the text from a byte on."""
        return _Text(self.data[position:], self.shares[position:])

    def counts(self) -> "NDArray[np.float64]":
        """Return the number of characters before each byte, and in all [bytes + 1]."""
        return np.concatenate([np.zeros(1), np.cumsum(self.shares, dtype=np.int64) / _UNIT])

    def parts(self, positions: Sequence[int]) -> list[str]:
        """Return the texts between positions; a character is in the part in which its first byte is."""
        begins = np.flatnonzero((self.data & 0xC0) != 0x80)
        edges = np.append(begins, len(self.data))[np.searchsorted(begins, positions)].tolist()
        data = self.data.tobytes()
        return [_valid(data[start:end].decode("utf-8", "surrogatepass")) for start, end in pairwise(edges)]


def _valid(text: str) -> str:
    """Replace lone surrogates, which no table of texts can hold."""
    return text.encode("utf-8", "replace").decode()


@dataclass
class SourceRows:
    """Row maker that adds the columns `..._text` and `..._size` to those of another one."""

    inner: RowMaker
    _text: _Text = field(default_factory=lambda: _Text.of(()))
    """Text of the tokens that are in no row yet."""
    _ends: "Places" = field(default_factory=lambda: np.empty(0, np.int64))
    """Positions in `_text` at which these tokens end."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (*self.inner.columns, *(make(ids) for ids in self._id_columns for make in (text_column, size_column)))

    @property
    def _id_columns(self) -> list[str]:
        return [name for name in self.inner.columns if name.endswith("_ids")]

    def feed(self, encoded: Encoded) -> "dict[str, tuple[Ids, Places]]":
        """Add encoded pieces and return the completed rows."""
        rows = self.inner.feed(encoded)
        if isinstance(self.inner, WholeRows):
            return rows | self._whole_rows(encoded, self.inner)
        ((_, lengths),), (ends,) = encoded.sides, encoded.token_ends
        texts = [piece[0] for piece in encoded.texts]
        text_ends = np.cumsum([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        after_documents = np.cumsum(lengths)[encoded.ends]
        ends = np.insert(ends, after_documents, text_ends[encoded.ends])  # an end token ends where its document does
        self._ends = np.concatenate([self._ends, ends + len(self._text.data)])
        self._text = self._text.join(_Text.of(texts))
        return rows | self._cut_rows(rows["input_ids"][1])

    def finish(self) -> "dict[str, tuple[Ids, Places]]":
        """Return the remaining rows."""
        rows = self.inner.finish()
        if isinstance(self.inner, WholeRows):
            for ids in self._id_columns:
                rows |= _columns(ids, [], np.empty((0, len(SourceSize._fields))))
            return rows
        return rows | self._cut_rows(rows["input_ids"][1])

    def _cut_rows(self, offsets: "Places") -> dict[str, Any]:
        """Return the source columns of rows of the next tokens, and remove their text; `offsets` are those of the rows."""
        count = int(offsets[-1])
        ends = np.append(0, self._ends[offsets[1:] - 1])
        firsts = self._ends[offsets[:-1]] if count else ends[:0]
        sizes = _sizes(self._text, ends[:-1], ends[1:], firsts, ends[1:])
        found = _columns("input_ids", self._text.parts(ends.tolist()), sizes)
        used = int(ends[-1])
        self._text, self._ends = self._text.after(used), self._ends[count:] - used
        return found

    def _whole_rows(self, encoded: Encoded, maker: WholeRows) -> dict[str, Any]:
        """Return the source columns of rows that are a document each."""
        found: dict[str, Any] = {}
        kept = maker.kept(encoded)
        for side, (_, lengths) in enumerate(encoded.sides):
            texts = [piece[side] for piece in encoded.texts]
            sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], dtype=np.int64)
            limits, begins = np.cumsum(sizes), np.cumsum(sizes) - sizes
            tokens = maker.body_lengths(lengths)
            last = np.cumsum(lengths) - lengths + tokens
            covered = np.append(encoded.token_ends[side], 0)[last - 1]
            covered = np.where(tokens < lengths, np.where(tokens > 0, covered, begins), limits)
            text = _Text.of(texts)
            counts = _sizes(text, begins, covered, begins, limits)
            if encoded.responses is not None:
                counts[:, [0, 1, 4, 5]] = _response_sizes(text, encoded, begins, tokens)
            counts = counts[kept]
            chosen = [_valid(text) for text, is_kept in zip(texts, kept.tolist(), strict=True) if is_kept]
            found |= _columns(self._id_columns[side], chosen, counts)
        return found


def _sizes(text: _Text, begins: "Places", ends: "Places", firsts: "Places", limits: "Places") -> "NDArray[np.float64]":
    """Return `SourceSize` [rows, 6] of rows from `begins` to `ends`, with a first token to `firsts` and text to `limits`."""
    counts = text.counts()
    spans = ((begins, ends), (begins, firsts), (ends, limits))
    return np.stack([part for start, end in spans for part in (counts[end] - counts[start], end - start)], axis=1)


def _response_sizes(text: _Text, encoded: Encoded, starts: "Places", kept: "Places") -> "NDArray[np.float64]":
    """Return characters and bytes [pieces, 4] of the tokens of responses in the rows, and of those that were cut off.

    `starts` are the beginnings of the texts, `kept` the numbers of tokens in rows.
    """
    assert encoded.responses is not None
    marks, lengths, ends = encoded.responses.marks, encoded.sides[0][1], encoded.token_ends[0]
    begins = np.append(0, ends)[: len(ends)]
    firsts = (np.cumsum(lengths) - lengths)[lengths > 0]
    begins[firsts] = starts[lengths > 0]
    counts = text.counts()
    sizes = np.stack([counts[ends] - counts[begins], ends - begins], axis=1)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    inside = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < np.repeat(kept, lengths)
    parts = [np.bincount(owners, size * marks * part, len(lengths)) for part in (inside, ~inside) for size in sizes.T]
    return np.stack(parts, axis=1)


def _columns(ids: str, texts: Sequence[str], sizes: "NDArray[np.float64]") -> dict[str, Any]:
    places = np.arange(len(sizes) + 1)
    return {text_column(ids): (texts, places), size_column(ids): (sizes.ravel(), places * sizes.shape[1])}
