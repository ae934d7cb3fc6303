"""Holes of unknown length: a text becomes the row `prefix SEP suffix SEP middle END`, whose middle is the response.

A model of such rows learns p(middle | prefix, suffix) with the end of the middle, so the length of a hole is drawn with its
text. The separator is the begin token: every tokenizer has one, no text encodes to it, and no vocabulary changes.
Each part is encoded alone, as the parts of a prompt are.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from data_manager.documents import Piece
from model_factory.yaml_config.strict_model import StrictModel


class InfillConfig(StrictModel):
    """Settings of rows for holes of unknown length, which `[[*]]` marks in a prompt."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of the documents with a hole at a random position. The hole of the others is the whole document, which teaches
    a model to write texts without a prompt. [1]"""
    copies: Annotated[int, Field(ge=1, le=1000)] = 1
    """Rows of each document, each with another hole. [rows]"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the holes. [1]"""


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
