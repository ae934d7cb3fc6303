"""Data loaders for rows of ids: sequential, shuffled, bucketed by length, or streamed."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_manager.row_types import SHUFFLE_BUFFER
from data_manager.rows.lengths import row_lengths

Collate = Callable[[Any], dict[str, Any]]
_POOL_BATCHES = 100
_log = logging.getLogger(__name__)


def row_loader(
    data: Any, config: Any, collate: Collate, *, batch_size: int, shuffle: bool, seed: int, num_workers: int
) -> DataLoader[dict[str, Any]]:
    """Return the loader of a `datasets.Dataset` or `IterableDataset` according to the config of the data set."""
    rows = data.with_format("numpy")
    if not hasattr(data, "__len__"):
        return stream_loader(
            rows, config, collate, batch_size=batch_size, shuffle=shuffle, seed=seed, workers=num_workers
        )
    if getattr(config, "bucketing", False):
        lengths = sum(row_lengths(data).values())
        batches: Any = LengthBuckets(lengths, batch_size, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        return DataLoader(rows, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
    return DataLoader(
        rows,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        num_workers=num_workers,
        collate_fn=collate,
    )


def stream_loader(
    rows: Any, config: Any, collate: Collate, *, batch_size: int, shuffle: bool, seed: int, workers: int
) -> DataLoader[dict[str, Any]]:
    """Return the loader of a stream; `shuffle` uses a shuffle buffer and a random order of shards."""
    if workers > rows.num_shards:
        _log.warning(
            "data set %r: %d workers for a stream of %d shards; %d idle workers are not started",
            config.name,
            workers,
            rows.num_shards,
            workers - rows.num_shards,
        )
        workers = rows.num_shards
    if shuffle:
        rows = rows.shuffle(seed=seed, buffer_size=getattr(config, "shuffle_buffer", None) or SHUFFLE_BUFFER)
    return StreamLoader(rows, batch_size=batch_size, num_workers=workers, collate_fn=collate)


class StreamLoader(DataLoader[dict[str, Any]]):
    """Loader of a stream that is shuffled differently in each epoch."""

    passes = 0

    def __iter__(self) -> Any:
        self.dataset.set_epoch(self.passes)  # type: ignore[attr-defined]
        self.passes += 1
        return super().__iter__()


class LengthBuckets:
    """Batch sampler of similar lengths: pools of a hundred batches are sorted by length, then batches are shuffled.

    With `shuffle`, the order depends on the epoch; `set_epoch` sets it.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, *, shuffle: bool = False, seed: int = 0) -> None:
        self.lengths, self.batch_size, self.shuffle, self.seed = lengths, batch_size, shuffle, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, from 0; by default it increases with each pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        count = len(self.lengths)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        size = self.batch_size * _POOL_BATCHES
        pools = [order[start : start + size] for start in range(0, count, size)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = [order[start : start + self.batch_size].tolist() for start in range(0, count, self.batch_size)]
        if self.shuffle:
            generator.shuffle(batches)
        yield from batches
