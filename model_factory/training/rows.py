"""Batches of one process.

Training reads one stream of rows, epoch after epoch, each epoch in its own random order. Step s takes the rows from
position s * G on, where G is the number of rows of a step over all processes and accumulated parts. A batch may span two
epochs, and all batches have one size. So the position to resume from is a product, not a state, and rows do not depend on
how many processes share a step. A run that continues with other rows a step, or on other data, shifts the positions by an
offset. If the data set sets `bucketing`, the rows of a step have similar lengths.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_manager.rows.shards import MappedRows
from data_manager.rows.token_stream import TokenStream
from model_factory.training.noise import RowNoise, mix_seed
from model_factory.training.row_order import Order
from model_factory.training.run.signals import leave_to_parent
from model_factory.training.share import Share
from model_factory.training.splits import Row, Split, is_table

Key = tuple[int, int]
"""Position in the stream, and the row's index in its split."""
Item = tuple[Key, Row]
"""A row with its key."""
Collate = Callable[[list[Row]], dict[str, Any]]

_WORKERS = 12


class TrainBatches(Sampler[list[Key]]):
    """Sampler of one process's batches from step `start` to `stop`; its length counts steps 0 to `stop`.

    Step 0 would begin at position `offset` of the stream of rows.
    """

    def __init__(self, order: Order, share: Share, start: int, stop: int, offset: int = 0) -> None:
        self.order, self.share, self.start, self.stop, self.offset = order, share, start, stop, offset

    def __len__(self) -> int:
        return self.stop * self.share.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.share
        for part in range(self.start * share.accumulation, len(self)):
            first = self.offset + (part * share.world + share.rank) * share.batch_size
            yield [(position, self.order.index(position)) for position in range(first, first + share.batch_size)]


class EvalBatches(Sampler[list[Key]]):
    """Sampler of every `world`-th of `count` rows; all processes get the same number of batches, the last may be empty."""

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
    """Dataset of the rows of a split (a `datasets.Dataset` or lhotse cuts), indexed by key.

    `change`, the augmentation of cuts, gets a row and the epoch of its position.
    """

    def __init__(self, data: Split, change: Callable[[Row, int], Row] | None = None) -> None:
        self.change = change
        self.table = data.with_format("numpy") if is_table(data) else None
        self.is_mapped = isinstance(data, MappedRows)
        self.items: Sequence[Row] = () if self.table is not None else list(data)

    def __len__(self) -> int:
        return len(self.items) if self.table is None else len(self.table)

    def __getitem__(self, key: Key) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Item]:
        """Return several rows at once, which is much faster for an Arrow table."""
        indices = [index for _, index in keys]
        if self.table is None or not indices:
            found = [self.items[index] for index in indices]
            if self.change is not None:
                found = [self.change(row, key[0] // len(self)) for row, key in zip(found, keys, strict=True)]
            return list(zip(keys, found, strict=True))
        columns = self.table[indices]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return list(zip(keys, rows, strict=True))


def first_rows(data: Split | TokenStream, limit: int | None) -> Rows:
    """Return the first `limit` rows of a split, all of them if it is None; those of a stream are kept in memory."""
    if isinstance(data, TokenStream):
        return Rows(data.head(limit))
    if limit is not None and limit < len(data):
        data = data.select(range(limit)) if is_table(data) else list(data)[:limit]
    return Rows(data)


@dataclass(frozen=True)
class RowCollator:
    """Collator of the data set that also adds `noise` and `labels`, and drops masks that are True everywhere.

    `batch_size` is the number of rows of a step; dividing a stream position, counted from `offset`, by it gives the step.
    `draw` is a task's `host_draw`; its result is `drawn` in the batch, or its error, which the step raises with its rows.
    """

    collate: Collate
    seed: int
    batch_size: int
    offset: int = 0
    draw: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """Collate rows into a batch; return an empty dictionary without rows."""
        if not items:
            return {}
        rows = [row for _, row in items]
        batch = {name: value for name, value in self.collate(rows).items() if not _is_idle_mask(name, value)}
        position = torch.tensor([key[0] for key, _ in items]) - self.offset
        index = torch.tensor([key[1] for key, _ in items])
        step = int(position[0]) // self.batch_size
        batch["noise"] = RowNoise(self.seed, step, index, position % self.batch_size, self.batch_size)
        if "labels" not in batch and isinstance(rows[0], dict) and "labels" in rows[0]:
            batch["labels"] = torch.tensor([int(row["labels"]) for row in rows])
        if self.draw is not None:
            try:
                batch["drawn"] = self.draw(batch)
            except ValueError as error:
                batch["drawn"] = {"error": str(error)}
        return batch


def _is_idle_mask(name: str, value: object) -> bool:
    """Return True for a mask that hides nothing; attention is faster without a mask."""
    return name.endswith("mask") and isinstance(value, torch.Tensor) and bool(value.all())


def build_row_loader(
    rows: Rows, batches: Sampler[list[Key]], collate: RowCollator, *, workers: int = 0, pin: bool = False
) -> DataLoader[Item]:
    """Load batches on the CPU, with `pin` into pinned memory, without drawing from the global RNG."""
    return DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=leave_to_parent,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(mix_seed(collate.seed, _WORKERS)),
    )


def spread_batch(rows: Rows, count: int, collate: RowCollator) -> Callable[[], dict[str, Any]]:
    """Return a function that collates `count` evenly spaced rows, all of them if there are fewer."""
    count = min(count, len(rows))
    indices = [number * len(rows) // count for number in range(count)]
    return lambda: collate(rows.__getitems__([(index, index) for index in indices]))
