"""Holes of unknown length: a text becomes the row `prefix SEP suffix SEP middle END`, whose middle is the response.

A model of such rows learns p(middle | prefix, suffix) with the end of the middle, so the length of a hole is drawn with its
text. The separator is the begin token: every tokenizer has one, no text encodes to it, and no vocabulary changes.
Each part is encoded alone, as the parts of a prompt are.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from data_manager.documents import Piece
from data_manager.row_types import InfillConfig


def with_holes(pieces: Iterable[Piece], config: InfillConfig) -> Iterator[Piece]:
    """Yield each document `copies` times, each with a hole that its text and its line decide."""
    for piece in pieces:
        for copy in range(config.copies):
            yield _with_hole(piece, config, copy)


def _with_hole(piece: Piece, config: InfillConfig, copy: int) -> Piece:
    (text,) = piece.texts
    key = f"{config.seed} {copy} {piece.line} {text}".encode("utf-8", "surrogatepass")
    draw = random.Random(key)
    is_cut = draw.random() < config.share
    begin, end = sorted(draw.randrange(len(text) + 1) for _ in range(2)) if is_cut else (0, len(text))
    return piece._replace(hole=(begin, end))


def given_ids(separator: int, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """Return the tokens of a row between its begin token and its middle, given the encoded prefix and suffix."""
    return [*prefix, separator, *suffix, separator]
