"""Random splits by ratio: each document is assigned to a split by a seed; ratios hold throughout the corpus."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece

_BLOCK = 20


@dataclass(frozen=True)
class Share:
    """Documents of `base` that are assigned to the split `name`."""

    base: Corpus
    ratios: tuple[tuple[str, float], ...]
    seed: int
    name: str

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the inputs of the base corpus and the settings of the split."""
        return [self.base.inputs(hash_file), self.ratios, self.seed, self.name]

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus: the split of a document depends on its position."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the documents of this split; skipped lines are counted in the first split only."""
        own = notes if self.name == self.ratios[0][0] else Notes()
        drawn = draw_splits(self.ratios, self.seed)
        split = next(drawn)
        for piece in self.base.read(own):
            if split == self.name:
                yield piece
            if piece.ends:
                split = next(drawn)


def draw_splits(ratios: Sequence[tuple[str, float]], seed: int) -> Iterator[str]:
    """Yield names of splits endlessly; every twenty documents, each split has its share to within one document."""
    generator = random.Random(seed)
    given = dict.fromkeys((name for name, _ in ratios), 0)
    count = 0
    while True:
        block = []
        for _ in range(_BLOCK):
            count += 1
            # the split furthest below its share
            name = max(ratios, key=lambda share: share[1] * count - given[share[0]])[0]
            given[name] += 1
            block.append(name)
        generator.shuffle(block)
        yield from block


def split_by_ratio(corpora: Mapping[str, Corpus], ratios: Mapping[str, float], seed: int) -> dict[str, Corpus]:
    """Divide the only corpus of `corpora` into splits by ratio."""
    (base,) = corpora.values()
    listed = tuple(ratios.items())
    return {name: Share(base, listed, seed, name) for name in ratios}
