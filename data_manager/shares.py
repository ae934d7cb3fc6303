"""Splits made by ratio: each document is drawn into one of them, by a seed, in proportions that hold throughout."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece

_BLOCK = 20


@dataclass(frozen=True)
class Share:
    """The documents of `base` that are drawn into the split `name`."""

    base: Corpus
    ratios: tuple[tuple[str, float], ...]
    seed: int
    name: str

    def inputs(self, hash_file: HashFile) -> Any:
        """Those of the whole, and the draw."""
        return [self.base.inputs(hash_file), self.ratios, self.seed, self.name]

    def shards(self) -> Sequence[Corpus]:
        """Itself: where a document goes depends on how many stand before it."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """The documents of this split. What is left out of the whole is counted in the first split alone."""
        own = notes if self.name == self.ratios[0][0] else Notes()
        drawn = draw(self.ratios, self.seed)
        split = next(drawn)
        for piece in self.base.read(own):
            if split == self.name:
                yield piece
            if piece.ends:
                split = next(drawn)


def draw(ratios: Sequence[tuple[str, float]], seed: int) -> Iterator[str]:
    """Names of splits without end: after each twenty all have their shares, up to one, in an order by the seed."""
    generator = random.Random(seed)
    given = dict.fromkeys((name for name, _ in ratios), 0)
    count = 0
    while True:
        block = []
        for _ in range(_BLOCK):
            count += 1
            # the split that is furthest behind its share
            name = max(ratios, key=lambda share: share[1] * count - given[share[0]])[0]
            given[name] += 1
            block.append(name)
        generator.shuffle(block)
        yield from block


def divided(corpora: Mapping[str, Corpus], ratios: Mapping[str, float], seed: int) -> dict[str, Corpus]:
    """The one corpus of `corpora` in splits."""
    (base,) = corpora.values()
    listed = tuple(ratios.items())
    return {name: Share(base, listed, seed, name) for name in ratios}
