"""Encode a corpus and build rows; shared by preparation and streaming."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from data_manager.documents import Corpus, Invalid, Notes, Piece
from data_manager.row_types import RESPONSES, TokensConfig
from data_manager.rows.parallel import ordered_map
from data_manager.text.infill import with_holes
from data_manager.tokenizers.base import Tokenizer, encode_many, encode_with_ends, unknown_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_manager.rows.pack import Encoded, RowMaker
    from data_manager.rows.responses import Responses
    from data_manager.tokenizers.base import Flat

    Ends = NDArray[np.int64]

BATCH = 1 << 18
"""Characters in an encoding batch."""
_BATCH_PIECES = 8192
UNKNOWN_REWRITTEN = "a rewritten SMILES with tokens that the tokenizer does not know"
"""Reason of a skipped text that its corpus wrote itself, see `Piece.rewritten`."""


class Sides(NamedTuple):
    """Ids and lengths of each side of several pieces, the ends of its tokens if they are kept, and the responses if any."""

    flat: "list[Flat]"
    ends: "list[Ends]"
    responses: "Responses | None" = None


@dataclass(frozen=True)
class EncodeSides:
    """Picklable function that encodes the sides of several pieces; `skip_invalid` is for pieces with invalid responses."""

    tokenizer: Tokenizer
    with_ends: bool = False
    skip_invalid: bool = False

    def __call__(self, batch: Sequence[Piece]) -> Sides:
        """Encode pieces, with `with_ends` also the ends of tokens."""
        if batch[0].hole is not None:
            from data_manager.rows.responses import encode_holes

            ids, ends, responses = encode_holes(self.tokenizer, batch, with_ends=self.with_ends)
            return Sides([ids], [] if ends is None else [ends], responses)
        if batch[0].responses is not None:
            from data_manager.rows.responses import encode_responses

            ids, ends, responses = encode_responses(self.tokenizer, batch, with_ends=self.with_ends)
            return Sides([ids], [] if ends is None else [ends], responses)
        sides = zip(*(piece.texts for piece in batch), strict=True)
        if not self.with_ends:
            return Sides([encode_many(self.tokenizer, side) for side in sides], [])
        found = [encode_with_ends(self.tokenizer, side) for side in sides]
        return Sides([(ids, lengths) for ids, lengths, _ in found], [ends for *_, ends in found])


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
    encode = EncodeSides(tokenizer, with_source, skips_invalid(config))
    pieces = read_pieces(corpus, config, notes, tokenizer)
    for batch, sides in ordered_map(encode, batches(pieces, size or BATCH), num_proc, f"data set {config.name!r}"):
        if (found := join_sides(encode, batch, sides, notes)) is not None:
            yield found


def skips_invalid(config: TokensConfig) -> bool:
    """Return True if a data set skips invalid rows."""
    return getattr(config, "on_invalid", "error") == "skip"


def read_pieces(corpus: Corpus, config: TokensConfig, notes: Notes, tokenizer: Tokenizer) -> Iterator[Piece]:
    """Read a corpus in the pieces that its layout encodes: whole documents, or parts of them."""
    pieces = corpus.read(notes)
    if config.has_responses and config.infill is None:
        from data_manager.rows.responses import written_conversations

        return written_conversations(pieces, tokenizer, Invalid(skips_invalid(config), notes))
    pieces = join_documents(pieces) if config.layout == "whole" else pieces
    return pieces if config.infill is None else with_holes(pieces, config.infill)


def join_sides(encode: EncodeSides, batch: list[Piece], sides: Sides, notes: Notes) -> "Encoded | None":
    """Return a batch of pieces whose encoded sides are `sides`; None if all of its pieces are dropped.

    Raises DataError for invalid responses that are not skipped.
    """
    import numpy as np

    from data_manager.rows.pack import Encoded

    if sides.responses is not None and sides.responses.problems:
        invalid = Invalid(encode.skip_invalid, notes)
        for index, message in sorted(sides.responses.problems.items()):
            invalid(batch[index].place, "invalid responses", message)
        batch = [piece for index, piece in enumerate(batch) if index not in sides.responses.problems]
        if not batch:
            return None
        sides = encode(batch)
    known = _drop_unknown(batch, sides.flat, encode.tokenizer, notes)
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
    places = [piece.place for piece in batch]
    return Encoded(sides.flat, ends, places, labels, cond, texts, sides.ends, sides.responses)


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
    from data_manager.rows.pack import COND, LABELS, CutRows, WholeRows

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if is_paired or config.layout == "whole":
        columns = ("source_ids", "target_ids") if is_paired else ("input_ids",)
        if getattr(config, "label", None) is not None:
            columns = (*columns, LABELS)
        if getattr(config, "condition_names", ()):
            columns = (*columns, COND)
        if config.has_responses:
            columns = (*columns, RESPONSES)
        return WholeRows(bos, eos, config.limit, config.too_long, notes, columns)
    assert config.limit is not None
    return CutRows(config.limit, eos, packed=config.layout == "packed")


def build_columns(maker: "RowMaker", found: "Iterable[Encoded]") -> "Iterator[tuple[Encoded | None, dict[str, Any]]]":
    """Yield columns of completed rows with the encoded pieces that completed them; None for the remaining rows."""
    for part in found:
        yield part, maker.feed(part)
    yield None, maker.finish()
