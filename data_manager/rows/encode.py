"""Encode a corpus and build rows; shared by preparation and streaming."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Notes, Piece
from data_manager.row_types import TokensConfig
from data_manager.rows.parallel import ordered_map
from data_manager.text.infill import with_holes
from data_manager.tokenizers.base import Tokenizer, encode_many, encode_with_ends, unknown_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_manager.rows.pack import Encoded, RowMaker
    from data_manager.tokenizers.base import Flat

    Ends = NDArray[np.int64]

BATCH = 1 << 18
"""Characters in an encoding batch."""
_BATCH_PIECES = 8192
UNKNOWN_REWRITTEN = "a rewritten SMILES with tokens that the tokenizer does not know"
"""Reason of a skipped text that its corpus wrote itself, see `Piece.rewritten`."""


@dataclass(frozen=True)
class EncodeSides:
    """Picklable function that encodes the sides of several pieces."""

    tokenizer: Tokenizer
    with_ends: bool = False

    def __call__(self, batch: Sequence[Piece]) -> "list[tuple[Flat, Ends | None]]":
        """Return ids and lengths of each side, with `with_ends` also the ends of tokens."""
        sides = zip(*(piece.texts for piece in batch), strict=True)
        if not self.with_ends:
            return [(encode_many(self.tokenizer, side), None) for side in sides]
        found = [encode_with_ends(self.tokenizer, side) for side in sides]
        return [((ids, lengths), ends) for ids, lengths, ends in found]


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
    corpus: Corpus,
    tokenizer: Tokenizer,
    config: TokensConfig,
    notes: Notes,
    *,
    num_proc: int = 1,
    size: int = 0,
    with_source: bool = False,
) -> "Iterator[Encoded]":
    """Encode a corpus in one or several processes, in batches of `size` characters (0: the default, `BATCH`).

    `with_source` keeps the texts and the ends of tokens, for source columns.
    """
    if num_proc > 1:
        tokenizer.encode("")  # loads a deferred tokenizer once, before the processes fork
    encode = EncodeSides(tokenizer, with_source)
    pieces = read_pieces(corpus, config, notes)
    for batch, sides in ordered_map(encode, batches(pieces, size or BATCH), num_proc, f"data set {config.name!r}"):
        if (found := join_sides(encode, batch, sides, notes)) is not None:
            yield found


def read_pieces(corpus: Corpus, config: TokensConfig, notes: Notes) -> Iterator[Piece]:
    """Read a corpus in the pieces that its layout encodes: whole documents, or parts of them."""
    pieces = corpus.read(notes)
    pieces = join_documents(pieces) if config.layout == "whole" else pieces
    return pieces if config.infill is None else with_holes(pieces, config.infill)


def join_sides(
    encode: EncodeSides, batch: list[Piece], sides: "list[tuple[Flat, Ends | None]]", notes: Notes
) -> "Encoded | None":
    """Return a batch of pieces whose encoded sides are `sides`; None if all of its pieces are dropped."""
    import numpy as np

    from data_manager.rows.pack import Encoded

    known = _drop_unknown(batch, [flat for flat, _ in sides], encode.tokenizer, notes)
    if not known:
        return None
    if len(known) < len(batch):
        batch, sides = known, encode(known)
    ends = np.fromiter((piece.ends for piece in batch), bool, len(batch))
    labels = None
    if batch[0].label is not None:
        labels = np.fromiter((piece.label for piece in batch if piece.label is not None), np.int32)
    cond = np.array([piece.cond for piece in batch], np.float32) if batch[0].cond else None
    texts = [piece.texts for piece in batch] if encode.with_ends else []
    token_ends = [found for _, found in sides if found is not None]
    places = [piece.place for piece in batch]
    return Encoded([side for side, _ in sides], ends, places, labels, cond, texts, token_ends)


def _drop_unknown(batch: list[Piece], sides: "Sequence[Flat]", tokenizer: Tokenizer, notes: Notes) -> list[Piece]:
    """Count the unknown tokens of each piece; return the pieces without the rewritten ones that have such tokens."""
    import numpy as np

    unknown = unknown_id(tokenizer)
    if unknown is None or not any((ids == unknown).any() for ids, _ in sides):
        return batch
    owners = [np.repeat(np.arange(len(batch)), lengths)[ids == unknown] for ids, lengths in sides]
    kept = []
    for piece, count in zip(batch, np.bincount(np.concatenate(owners), minlength=len(batch)).tolist(), strict=True):
        if count and piece.rewritten:
            notes.add(UNKNOWN_REWRITTEN, piece.place)
            continue
        if count:
            notes.add_unknown(count, piece.place)
        kept.append(piece)
    return kept


def row_maker(
    config: TokensConfig, tokenizer: Tokenizer, is_paired: bool, notes: Notes, *, with_source: bool = False
) -> "RowMaker":
    """Return the row maker of the layout of a data set, with `with_source` one that adds source columns."""
    if with_source:
        from data_manager.rows.source import SourceRows

        return SourceRows(row_maker(config, tokenizer, is_paired, notes))
    from data_manager.rows.pack import COND, LABELS, CutRows, InfillRows, WholeRows

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if config.infill is not None:
        return InfillRows(bos, eos, config.sequence_length, config.too_long, notes)
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
