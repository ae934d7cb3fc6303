"""A corpus to encoded pieces and on to rows: the part that preparing and streaming have in common."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Notes, Piece
from data_manager.ordered_map import ordered_map
from data_manager.text_types import TokensConfig
from data_manager.tokenizer_base import Tokenizer, encode_many

if TYPE_CHECKING:
    from data_manager.packing import Encoded, RowMaker
    from data_manager.tokenizer_base import Flat

BATCH = 1 << 18
"""Characters that are encoded together."""
_PIECES = 8192


@dataclass(frozen=True)
class EncodeSides:
    """Encodes the sides of several pieces; can be sent to another process."""

    tokenizer: Tokenizer

    def __call__(self, batch: Sequence[Piece]) -> "list[Flat]":
        """Ids and lengths of each side."""
        return [encode_many(self.tokenizer, side) for side in zip(*(piece.texts for piece in batch), strict=True)]


def batches(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """Pieces in lists of about `size` characters."""
    batch: list[Piece] = []
    length = 0
    for piece in pieces:
        batch.append(piece)
        length += sum(map(len, piece.texts))
        if length >= size or len(batch) >= _PIECES:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def whole_documents(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces joined to the documents that they are parts of."""
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if piece.ends:
            yield piece if len(held) == 1 else piece._replace(texts=("".join(part.texts[0] for part in held),))
            held = []


def encoded(
    corpus: Corpus, tokenizer: Tokenizer, config: TokensConfig, notes: Notes, *, num_proc: int = 1, size: int = 0
) -> "Iterator[Encoded]":
    """The pieces of a corpus, encoded by one or several processes in batches of `size` characters (0: a quarter of a million)."""
    import numpy as np

    from data_manager.packing import Encoded

    pieces = corpus.read(notes)
    if config.layout == "whole":
        pieces = whole_documents(pieces)
    if num_proc > 1:
        tokenizer.encode("")  # one that is read at its first use is read here, once for all processes
    found = ordered_map(EncodeSides(tokenizer), batches(pieces, size or BATCH), num_proc, f"data set {config.name!r}")
    for batch, sides in found:
        ends = np.fromiter((piece.ends for piece in batch), bool, len(batch))
        labels = None
        if batch[0].label is not None:
            labels = np.fromiter((piece.label for piece in batch if piece.label is not None), np.int32)
        cond = np.array([piece.cond for piece in batch], np.float32) if batch[0].cond else None
        yield Encoded(sides, ends, [piece.place for piece in batch], labels, cond)


def row_maker(config: TokensConfig, tokenizer: Tokenizer, is_paired: bool, notes: Notes) -> "RowMaker":
    """What makes rows of the layout that the data set asks for."""
    from data_manager.packing import COND, LABELS, CutRows, WholeRows

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if is_paired or config.layout == "whole":
        columns = ("source_ids", "target_ids") if is_paired else ("input_ids",)
        if getattr(config, "label", None) is not None:
            columns = (*columns, LABELS)
        if getattr(config, "condition_names", ()):
            columns = (*columns, COND)
        return WholeRows(bos, eos, config.sequence_length, config.too_long, notes, columns)
    assert config.limit is not None
    return CutRows(config.limit, eos, packed=config.layout == "packed")


def columns_of(maker: "RowMaker", found: "Iterable[Encoded]") -> "Iterator[tuple[Encoded | None, dict[str, Any]]]":
    """Columns of rows as they become complete, each with what it was made from."""
    for part in found:
        yield part, maker.feed(part)
    yield None, maker.finish()
