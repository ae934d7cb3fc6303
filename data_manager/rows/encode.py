"""Encode a corpus and build rows; shared by preparation and streaming."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Notes, Piece
from data_manager.row_types import TokensConfig
from data_manager.rows.parallel import ordered_map
from data_manager.tokenizers.base import Tokenizer, encode_many, unknown_id

if TYPE_CHECKING:
    from data_manager.rows.pack import Encoded, RowMaker
    from data_manager.tokenizers.base import Flat

BATCH = 1 << 18
"""Characters in an encoding batch."""
_BATCH_PIECES = 8192
UNKNOWN_REWRITTEN = "a rewritten SMILES with tokens that the tokenizer does not know"
"""Reason of a skipped text that its corpus wrote itself, see `Piece.rewritten`."""


@dataclass(frozen=True)
class EncodeSides:
    """Picklable function that encodes the sides of several pieces."""

    tokenizer: Tokenizer

    def __call__(self, batch: Sequence[Piece]) -> "list[Flat]":
        """Return ids and lengths of each side."""
        return [encode_many(self.tokenizer, side) for side in zip(*(piece.texts for piece in batch), strict=True)]


def batches(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """Group pieces into batches of about `size` characters."""
    batch: list[Piece] = []
    length = 0
    for piece in pieces:
        batch.append(piece)
        length += sum(map(len, piece.texts))
        if length >= size or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def join_documents(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join the pieces of each document."""
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if piece.ends:
            yield piece if len(held) == 1 else piece._replace(texts=("".join(part.texts[0] for part in held),))
            held = []


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, config: TokensConfig, notes: Notes, *, num_proc: int = 1, size: int = 0
) -> "Iterator[Encoded]":
    """Encode a corpus in one or several processes, in batches of `size` characters (0: the default, `BATCH`)."""
    import numpy as np

    from data_manager.rows.pack import Encoded

    pieces = corpus.read(notes)
    if config.layout == "whole":
        pieces = join_documents(pieces)
    if num_proc > 1:
        tokenizer.encode("")  # loads a deferred tokenizer once, before the processes fork
    found = ordered_map(EncodeSides(tokenizer), batches(pieces, size or BATCH), num_proc, f"data set {config.name!r}")
    for batch, sides in found:
        batch, sides = _count_unknown(batch, sides, tokenizer, notes)
        if not batch:
            continue
        ends = np.fromiter((piece.ends for piece in batch), bool, len(batch))
        labels = None
        if batch[0].label is not None:
            labels = np.fromiter((piece.label for piece in batch if piece.label is not None), np.int32)
        cond = np.array([piece.cond for piece in batch], np.float32) if batch[0].cond else None
        yield Encoded(sides, ends, [piece.place for piece in batch], labels, cond)


def _count_unknown(
    batch: list[Piece], sides: "list[Flat]", tokenizer: Tokenizer, notes: Notes
) -> "tuple[list[Piece], list[Flat]]":
    """Count the unknown tokens of each piece; leave out the rewritten pieces with such tokens."""
    import numpy as np

    unknown = unknown_id(tokenizer)
    if unknown is None or not any((ids == unknown).any() for ids, _ in sides):
        return batch, sides
    owners = [np.repeat(np.arange(len(batch)), lengths) for _, lengths in sides]
    found = [owner[ids == unknown] for owner, (ids, _) in zip(owners, sides, strict=True)]
    counts = np.bincount(np.concatenate(found), minlength=len(batch))
    keep = np.ones(len(batch), dtype=bool)
    for index in np.flatnonzero(counts).tolist():
        if batch[index].rewritten:
            keep[index] = False
            notes.add(UNKNOWN_REWRITTEN, batch[index].place)
        else:
            notes.add_unknown(int(counts[index]), batch[index].place)
    kept = [(ids[keep[owner]], lengths[keep]) for owner, (ids, lengths) in zip(owners, sides, strict=True)]
    return [piece for piece, is_kept in zip(batch, keep, strict=True) if is_kept], kept


def row_maker(config: TokensConfig, tokenizer: Tokenizer, is_paired: bool, notes: Notes) -> "RowMaker":
    """Return the row maker of the layout of a data set."""
    from data_manager.rows.pack import COND, LABELS, CutRows, WholeRows

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


def build_columns(maker: "RowMaker", found: "Iterable[Encoded]") -> "Iterator[tuple[Encoded | None, dict[str, Any]]]":
    """Yield columns of completed rows with the encoded pieces that completed them; None for the remaining rows."""
    for part in found:
        yield part, maker.feed(part)
    yield None, maker.finish()
