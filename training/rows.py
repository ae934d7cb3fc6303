"""The order in which rows are trained on, and the batches of one process.

Training is one stream of rows, epoch after epoch, each epoch in an order of its own. Step s takes the rows from
s * G on, where G is the number of rows of a step over all processes and accumulated parts; a batch may reach from one
epoch into the next, and all are of one size. Where a run goes on is therefore a product, not a state, and rows do not
depend on how many processes share a step. Where the data set asks for `bucketing`, the rows of a step are of like lengths.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.noise import RowNoise, mixed_seed
from training.share import Share
from training.signals import leave_to_parent
from training.splits import Row, Split, is_table

Key = tuple[int, int]
"""Position in the stream, and the row's index in its split."""
Item = tuple[Key, Row]
"""A row with its key."""
Collate = Callable[[list[Row]], dict[str, Any]]

_ORDER, _WORKERS = 11, 12
_POOL = 100


@dataclass(frozen=True)
class Buckets:
    """Steps of rows of like lengths: `lengths` int64 [rows of the split], and the rows of a step."""

    lengths: Tensor
    step_rows: int

    def sorted(self, order: Tensor, start: int, generator: torch.Generator) -> Tensor:
        """An epoch's order int64 [count], which begins at position `start` of the stream, with its steps alike.

        A hundred steps at a time are sorted by length, then steps are shuffled; those at the epoch's ends are not whole.
        """
        pools = torch.split(order, _POOL * self.step_rows)
        order = torch.cat([pool[torch.argsort(self.lengths[pool], stable=True)] for pool in pools])
        first = min(-start % self.step_rows, len(order))
        steps = (len(order) - first) // self.step_rows
        last = first + steps * self.step_rows
        whole = order[first:last].view(steps, self.step_rows)
        mixed = whole[torch.randperm(steps, generator=generator)].flatten()
        return torch.cat([order[:first], mixed, order[last:]])


class RowOrder:
    """A permutation of `count` rows for each epoch, decided by (seed, epoch), and by `buckets` where there are some."""

    def __init__(self, count: int, seed: int, buckets: Buckets | None = None) -> None:
        self.count, self.seed, self.buckets = count, seed, buckets
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def index(self, position: int) -> int:
        """Row at a position of the stream."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, _ORDER, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
            if self.buckets is not None:
                self._order = self.buckets.sorted(self._order, epoch * self.count, generator)
        return int(self._order[place])


class TrainBatches(Sampler[list[Key]]):
    """Keys of the batches of one process, from step `start` to `stop`; its length is that of steps 0 to `stop`."""

    def __init__(self, order: RowOrder, share: Share, start: int, stop: int) -> None:
        self.order, self.share, self.start, self.stop = order, share, start, stop

    def __len__(self) -> int:
        return self.stop * self.share.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.share
        for part in range(self.start * share.accumulation, len(self)):
            first = (part * share.world + share.rank) * share.batch_size
            yield [(position, self.order.index(position)) for position in range(first, first + share.batch_size)]


class EvalBatches(Sampler[list[Key]]):
    """Keys of every `world`-th of `count` rows; all processes give equally many batches, the last may be empty."""

    def __init__(self, count: int, share: Share) -> None:
        self.count, self.share = count, share

    def __len__(self) -> int:
        return -(-self.count // (self.share.world * self.share.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        own = range(self.share.rank, self.count, self.share.world)
        for number in range(len(self)):
            part = own[number * self.share.batch_size : (number + 1) * self.share.batch_size]
            yield [(index, index) for index in part]


class Rows(Dataset[Item]):
    """Rows of a split (a `datasets.Dataset` or lhotse cuts) by their keys."""

    def __init__(self, data: Split) -> None:
        self.table = data.with_format("numpy") if is_table(data) else None
        self.items: Sequence[Row] = () if self.table is not None else list(data)

    def __len__(self) -> int:
        return len(self.items) if self.table is None else len(self.table)

    def __getitem__(self, key: Key) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Item]:
        """Several rows at once, which an Arrow table is much faster at."""
        indices = [index for _, index in keys]
        if self.table is None or not indices:
            return list(zip(keys, [self.items[index] for index in indices], strict=True))
        columns = self.table[indices]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return list(zip(keys, rows, strict=True))


@dataclass(frozen=True)
class RowCollator:
    """The data set's own collator, and what training adds: `noise`, `labels` where rows have them, no idle masks.

    `batch_size` is the number of rows of a step, by which a position tells its step.
    """

    collate: Collate
    seed: int
    batch_size: int

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """The batch of some rows; an empty dictionary of none."""
        if not items:
            return {}
        rows = [row for _, row in items]
        batch = {name: value for name, value in self.collate(rows).items() if not _is_idle_mask(name, value)}
        position = torch.tensor([key[0] for key, _ in items])
        index = torch.tensor([key[1] for key, _ in items])
        step = int(position[0]) // self.batch_size
        batch["noise"] = RowNoise(self.seed, step, index, position % self.batch_size, self.batch_size)
        if "labels" not in batch and isinstance(rows[0], dict) and "labels" in rows[0]:
            batch["labels"] = torch.tensor([int(row["labels"]) for row in rows])
        return batch


def _is_idle_mask(name: str, value: object) -> bool:
    """True for a mask that hides nothing: attention is faster without one."""
    return name.endswith("mask") and isinstance(value, torch.Tensor) and bool(value.all())


def row_loader(rows: Rows, batches: Sampler[list[Key]], collate: RowCollator, *, workers: int = 0) -> DataLoader[Item]:
    """Batches on the CPU, pinned where there is a GPU; no number is taken from the global generators."""
    return DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=leave_to_parent,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(mixed_seed(collate.seed, _WORKERS)),
    )
