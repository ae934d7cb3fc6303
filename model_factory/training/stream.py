"""Training batches from a stream of rows, in the order of a table's: process r takes its share of the rows of each step.

Rows are shuffled in blocks of `shuffle_buffer` rows: a block's order is drawn from the seed and the block's number. So the
row at a position is a function of files, seed and position. A batch carries the bookmark of its block; from it and the
position of the next step, a resumed run reads again the block, and the shard's texts before it, without encoding them.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_manager.rows.parallel import exit_with_parent
from data_manager.rows.token_stream import Bookmark, Item, Row, TokenStream
from model_factory.training.errors import RunFolderError
from model_factory.training.noise import mix_seed
from model_factory.training.row_order import Buckets, choose_order
from model_factory.training.rows import RowCollator, Rows, TrainBatches, build_row_loader
from model_factory.training.run.checkpoints import ROW_ORDER
from model_factory.training.run.signals import leave_to_parent
from model_factory.training.share import Share

BOOKMARK = "bookmark"
"""Key of a batch: the bookmark of the block that its last row is from."""
_BLOCK = 13


class _Items(IterableDataset[Item]):
    """Items of a stream, those of one worker inside a worker of a loader."""

    def __init__(self, stream: TokenStream, start: Bookmark, seed: int) -> None:
        self.stream, self.start, self.seed = stream, start, seed

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.stream.items(self.start, self.seed, number, count)


@dataclass(frozen=True)
class StreamOrder:
    """Shuffled rows of a stream from a bookmark on; `workers` processes encode text, this one if it is 0."""

    stream: TokenStream
    seed: int
    start: Bookmark
    workers: int = 0
    quiet: bool = False

    def rows(self, position: int) -> Generator[tuple[Row, Bookmark]]:
        """Yield rows from a position on, with the bookmark of their block, of which the start is before that position."""
        size = self.stream.block_rows
        block, within = divmod(position, size)
        if block * size < self.start.row:
            raise RunFolderError(
                f"the bookmark is at row {self.start.row:,} of the stream, after position {position:,}; delete this "
                "checkpoint to resume from the one before"
            )
        with self._items() as items:
            found = self.stream.rows(items, self.start, quiet=self.quiet)
            found = islice(found, block * size - self.start.row, None)
            yield from islice(self._shuffled(found, block), within, None)

    def _shuffled(self, rows: Iterator[tuple[Row, Bookmark]], block: int) -> Iterator[tuple[Row, Bookmark]]:
        held = list(islice(rows, self.stream.block_rows))
        while True:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, _BLOCK, block))
            mark, following = held[0][1], []
            for index in torch.randperm(len(held), generator=generator).tolist():
                yield held[index][0], mark
                following.append(next(rows))  # one by one, so that workers never wait for a whole block
            held, block = following, block + 1

    @contextmanager
    def _items(self) -> Iterator[Iterator[Item]]:
        """Yield the items; end the workers at the end of the block."""
        if not self.workers:
            yield self.stream.items(self.start, self.seed)
            return
        loader = DataLoader(
            _Items(self.stream, self.start, self.seed),
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_unchanged,
            worker_init_fn=_begin_worker,
            generator=torch.Generator().manual_seed(mix_seed(self.seed, _BLOCK)),
        )
        items: Any = iter(loader)
        try:
            yield items
        finally:
            items._shutdown_workers()


class StreamBatches(IterableDataset[dict[str, Any]]):
    """Batches of one process from step `start` to `stop`; its length counts steps 0 to `stop`, as `TrainBatches` does."""

    def __init__(self, order: StreamOrder, collate: RowCollator, share: Share, start: int, stop: int) -> None:
        self.order, self.collate, self.share, self.start, self.stop = order, collate, share, start, stop
        self._rows: Generator[tuple[Row, Bookmark]] | None = None

    def __len__(self) -> int:
        return self.stop * self.share.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share = self.share
        size, own = share.batch_size * share.world, share.rank * share.batch_size
        position = self.collate.offset + self.start * share.rows
        rows = self._rows = self.order.rows(position)
        for _ in range(self.start * share.accumulation, len(self)):
            part = list(islice(rows, size))
            mine = range(own, own + share.batch_size)
            batch = self.collate([((position + index, position + index), part[index][0]) for index in mine])
            yield {**batch, BOOKMARK: part[-1][1]}
            position += size

    def close(self) -> None:
        """End the workers; they would otherwise still run at the end of the process, which torch reports as an error."""
        if self._rows is not None:
            self._rows.close()


def build_stream_loader(batches: StreamBatches, *, pin: bool = False) -> DataLoader[dict[str, Any]]:
    """Load batches on the CPU, with `pin` into pinned memory, without drawing from the global RNG."""
    return DataLoader(
        batches,
        batch_size=None,
        collate_fn=_unchanged,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(mix_seed(batches.order.seed, _BLOCK)),
    )


@dataclass(frozen=True)
class Data:
    """Rows to train on and to evaluate on (None: no evaluation), their collator, and this process's share of a step."""

    train: Rows | TokenStream
    evaluation: Rows | None
    collate: RowCollator
    share: Share
    buckets: Buckets | None = None
    offset: int = 0
    """Position in the stream of rows at which step 0 would begin."""
    bookmark: Bookmark | None = None
    """Where a stream begins; None for a table."""
    order_version: int = ROW_ORDER
    """Version of the order of a table's rows, that of the checkpoint for a resumed run."""

    @property
    def split_rows(self) -> int:
        """Return the number of rows of the training split, 0 for a stream."""
        return 0 if isinstance(self.train, TokenStream) else len(self.train)

    def epoch(self, step: int, mark: Bookmark | None) -> float:
        """Return the epochs done after a step, of a stream those that were read completely up to its bookmark."""
        if isinstance(self.train, TokenStream):
            return float(mark.epoch if mark is not None else 0)
        return (self.offset + step * self.share.rows) / len(self.train)

    def loader(self, start: int, stop: int, workers: int, *, pin: bool = False) -> DataLoader[Any]:
        """Return the batches of this process from step `start` to `stop`, made by `workers` processes, with `pin` pinned."""
        seed = self.collate.seed
        if isinstance(self.train, TokenStream):
            order = StreamOrder(self.train, seed, self.bookmark or Bookmark(), workers, quiet=self.share.rank > 0)
            return build_stream_loader(StreamBatches(order, self.collate, self.share, start, stop), pin=pin)
        count, is_mapped = len(self.train), self.train.is_mapped
        row_order = choose_order(count, seed, self.buckets, is_mapped=is_mapped, version=self.order_version)
        batches = TrainBatches(row_order, self.share, start, stop, self.offset)
        return build_row_loader(self.train, batches, self.collate, workers=workers, pin=pin)


def _begin_worker(number: int) -> None:
    """Leave signals to the parent, and exit when it is killed, also with items that are not read yet."""
    leave_to_parent(number)
    Thread(target=exit_with_parent, daemon=True).start()


def _unchanged(value: Any) -> Any:
    return value
