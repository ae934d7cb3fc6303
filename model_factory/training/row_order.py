"""Order of the rows of an epoch: a permutation that follows from seed and epoch, whole in memory or computed as it is read.

A run of many rows (`MANY`), or on memory-mapped shards, computes its order row by row. A checkpoint stores the version of
the order, so that a resumed run keeps the order that it began with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_manager.rows.lengths import row_lengths
from data_manager.rows.shards import MappedRows
from model_factory.training.noise import mix_seed, mix_seeds
from model_factory.training.run.checkpoints import ROW_ORDER
from model_factory.training.splits import Split

MANY = 1 << 24
"""Rows from which an order is computed row by row."""
_ORDER = 11
_POOL = 100
"""Steps of a pool, the rows of which are sorted by length."""
_WINDOW = 4096
"""Rows of the order that are computed together."""
_ROUNDS = 6


class Order(Protocol):
    """Permutation of `count` rows for each epoch."""

    count: int

    def index(self, position: int) -> int:
        """Return the row at a position of the stream, which continues from epoch to epoch."""
        ...


class LengthsOfRows(Protocol):
    """Number of tokens of each row: a tensor int64 [rows], or `MappedLengths`, which reads them when they are needed."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


class MappedLengths:
    """Lengths of the rows of memory-mapped shards, read when they are needed."""

    def __init__(self, rows: MappedRows) -> None:
        self.rows = rows

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Return the lengths int64 [count] of rows int64 [count]."""
        return torch.from_numpy(self.rows.lengths_at(rows.numpy()))


@dataclass(frozen=True)
class Buckets:
    """Buckets of rows of similar length: the rows' lengths, the rows of a step, the position of step 0."""

    lengths: LengthsOfRows
    step_rows: int
    offset: int = 0

    @classmethod
    def of(cls, rows: Split, step_rows: int, offset: int) -> "Buckets":
        """Create the buckets of a table's rows; the lengths of many rows of shards stay on the disk."""
        if isinstance(rows, MappedRows) and len(rows) >= MANY:
            return cls(MappedLengths(rows), step_rows, offset)
        return cls(torch.from_numpy(sum(row_lengths(rows).values())), step_rows, offset)

    @property
    def pool(self) -> int:
        """Return the number of rows that are sorted together."""
        return _POOL * self.step_rows

    def sort(self, order: Tensor, start: int, generator: torch.Generator) -> Tensor:
        """Reorder rows int64 [count] of one epoch, which begin at stream position `start`, by length within pools.

        Pools of a hundred steps are sorted by length, then the steps are shuffled. Partial steps at the two ends stay where
        they are.
        """
        pools = torch.split(order, self.pool)
        order = torch.cat([pool[torch.argsort(self.lengths[pool], stable=True)] for pool in pools])
        first = min((self.offset - start) % self.step_rows, len(order))
        steps = (len(order) - first) // self.step_rows
        last = first + steps * self.step_rows
        whole = order[first:last].view(steps, self.step_rows)
        mixed = whole[torch.randperm(steps, generator=generator)].flatten()
        return torch.cat([order[:first], mixed, order[last:]])


class RowOrder:
    """Permutation of `count` rows for each epoch, a function of (seed, epoch) and of `buckets` if given."""

    def __init__(self, count: int, seed: int, buckets: Buckets | None = None) -> None:
        self.count, self.seed, self.buckets = count, seed, buckets
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def index(self, position: int) -> int:
        """Return the row at a position of the stream."""
        epoch, offset = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, _ORDER, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
            if self.buckets is not None:
                self._order = self.buckets.sort(self._order, epoch * self.count, generator)
        return int(self._order[offset])


class HashedOrder:
    """Permutation of `count` rows for each epoch, computed in windows: it takes no time to create, and constant memory.

    It is a Feistel network of six rounds on the smallest even number of bits that holds the rows, applied again to numbers
    beyond them (cycle walking; Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains). Its keys are a function of
    (seed, epoch). With `buckets` a window is a pool of rows, which is sorted by length.
    """

    def __init__(self, count: int, seed: int, buckets: Buckets | None = None) -> None:
        self.count, self.seed, self.buckets = count, seed, buckets
        self.half = max(1, ((count - 1).bit_length() + 1) // 2)
        self.window = _WINDOW if buckets is None else buckets.pool
        self._epoch, self._keys = -1, list[int]()
        self._held, self._rows = (-1, -1), list[int]()

    def index(self, position: int) -> int:
        """Return the row at a position of the stream."""
        epoch, offset = divmod(position, self.count)
        number, within = divmod(offset, self.window)
        if (epoch, number) != self._held:
            self._held, self._rows = (epoch, number), self._compute(epoch, number)
        return self._rows[within]

    def _compute(self, epoch: int, number: int) -> list[int]:
        """Return the rows of window `number` of an epoch."""
        if epoch != self._epoch:
            self._epoch, self._keys = epoch, mix_seeds(self.seed, _ORDER, epoch, count=_ROUNDS)
        first = number * self.window
        rows = permute(np.arange(first, min(first + self.window, self.count)), self.count, self.half, self._keys)
        if self.buckets is not None:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, _ORDER, epoch, _ROUNDS, number))
            rows = self.buckets.sort(torch.from_numpy(rows), epoch * self.count + first, generator).numpy()
        found: list[int] = rows.tolist()
        return found


def permute(numbers: NDArray[np.int64], count: int, half: int, keys: Sequence[int]) -> NDArray[np.int64]:
    """Return the images int64 [n] of numbers int64 [n] below `count` under the permutation that the keys select.

    A Feistel network permutes the numbers of 2 * `half` bits, of which there are at least `count` and, from three rows on,
    less than 4 * `count`.
    """
    found = _encrypt(numbers.astype(np.uint64), half, keys)
    outside = np.flatnonzero(found >= count)
    while outside.size:
        found[outside] = _encrypt(found[outside], half, keys)
        outside = outside[found[outside] >= count]
    return found.astype(np.int64)


def _encrypt(values: NDArray[np.uint64], half: int, keys: Sequence[int]) -> NDArray[np.uint64]:
    """Return a permutation of numbers of 2 * `half` bits, uint64 [n]; arithmetic is modulo 2^64."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        mixed = (right + np.uint64(key)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ mixed >> np.uint64(31)) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((mixed ^ mixed >> np.uint64(29)) & mask)
    return left << bits | right


def choose_order(
    count: int, seed: int, buckets: Buckets | None, *, is_mapped: bool, version: int = ROW_ORDER
) -> RowOrder | HashedOrder:
    """Return the order of `count` rows: computed row by row if there are many, or if they are mapped without buckets.

    `version` is that of the run. Version 1 permutes any number of rows in memory, except mapped ones without buckets.
    """
    is_large = version >= 2 and count >= MANY
    if is_large or (is_mapped and buckets is None):
        return HashedOrder(count, seed, buckets)
    return RowOrder(count, seed, buckets)
