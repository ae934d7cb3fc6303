"""Endless stream of rows to train on: a function of files, seed and position, which a bookmark continues exactly.

An epoch reads the shards (files) in an order drawn from seed and epoch, and each shard in order. A batch of pieces is an
item, which any worker may encode; rows are made from the items in order, so they do not depend on the number of workers.
"""

import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Listed, Notes
from data_manager.errors import DataError
from data_manager.row_types import SHUFFLE_BUFFER, TokensConfig
from data_manager.rows.encode import EncodeSides, batches, join_sides, read_pieces, row_maker, skips_invalid
from data_manager.rows.prepare import empty_split
from data_manager.text.arrow import ArrowRows
from data_manager.tokenizers.base import Tokenizer
from model_factory.yaml_config.errors import escape_controls

if TYPE_CHECKING:
    import datasets

    from data_manager.rows.pack import Encoded, RowMaker

_BATCH = 1 << 16
"""Characters in an item."""
SAMPLE = 1000
"""Rows of a sample."""
_log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Bookmark:
    """Position from which a stream continues: an item, and what waits for the end of a row before it.

    `shard` counts the shards of the epoch, `piece` the pieces of the shard that were read, `row` the rows of the stream;
    `rest` and `starts` are the state of the row maker (`CutRows.held`), shorter than a row.
    """

    epoch: int = 0
    shard: int = 0
    piece: int = 0
    row: int = 0
    rest: Sequence[int] = ()
    starts: Sequence[int] = (0,)

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object) -> "Bookmark":
        """Return the bookmark that `as_dict` wrote; raise ValueError if a value is invalid."""
        names = [each.name for each in fields(cls)]
        if not isinstance(content, dict) or sorted(content) != sorted(names):
            raise ValueError(f"must have the keys {', '.join(names)}")
        for name, value in content.items():
            numbers = value if isinstance(value, list) and name in ("rest", "starts") else [value]
            if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers):
                raise ValueError(f"{name} is {str(value)[:60]}")
            if name == "rest" and any(number >= 2**31 for number in numbers):
                raise ValueError(f"{name} holds an id above 2^31")
        return cls(**content)


@dataclass(frozen=True)
class Item:
    """Encoded pieces of a shard with their position, and the notes on them; the last item of a shard has no pieces.

    `error` is the reason why the stream ends here.
    """

    epoch: int
    shard: int
    piece: int
    encoded: "Encoded | None" = None
    notes: Notes = field(default_factory=Notes)
    is_last: bool = False
    error: DataError | None = None


@dataclass(frozen=True)
class TokenStream:
    """Stream of the rows of one split; it has no length, and can be pickled."""

    config: TokensConfig
    split: str
    shards: Sequence[Corpus]
    tokenizer: Tokenizer
    is_paired: bool

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of a row."""
        return list(self._maker(Notes()).columns)

    @property
    def block_rows(self) -> int:
        """Number of rows that are shuffled together."""
        return self.config.shuffle_buffer or SHUFFLE_BUFFER

    def items(self, start: Bookmark, seed: int | None, worker: int = 0, workers: int = 1) -> Iterator[Item]:
        """Yield every `workers`-th item from a bookmark on, from number `worker` on; without a seed, shards keep their order.

        Every worker reads the texts, and encodes its own items.
        """
        encode, number = EncodeSides(self.tokenizer, skip_invalid=skips_invalid(self.config)), 0
        epoch, first, piece = start.epoch, start.shard, start.piece
        while True:
            order = list(range(len(self.shards)))
            if seed is not None:
                random.Random(f"{seed} {epoch}").shuffle(order)
            for shard in range(first, len(order)):
                try:
                    notes = Notes()
                    pieces = read_pieces(self.shards[order[shard]], self.config, notes, self.tokenizer)
                    pieces = islice(pieces, piece, None)
                    for batch in batches(pieces, _BATCH):
                        if number % workers == worker:
                            encoded = join_sides(encode, batch, encode(batch), notes)
                            yield Item(epoch, shard, piece, encoded, notes.take())
                        notes.take()
                        number, piece = number + 1, piece + len(batch)
                except DataError as error:
                    if number % workers == worker:
                        yield Item(epoch, shard, piece, error=error)
                    return
                if number % workers == worker:
                    yield Item(epoch, shard, piece, None, notes.take(), is_last=True)
                number, piece = number + 1, 0
            epoch, first = epoch + 1, 0

    def rows(self, items: Iterable[Item], start: Bookmark, *, quiet: bool = False) -> Iterator[tuple[Row, Bookmark]]:
        """Yield rows with the bookmark of the item that completed them, given all items from the bookmark `start` on.

        Skipped lines are logged at the end of each shard of the first epoch, unless `quiet`. Raises DataError.
        """
        from data_manager.rows.pack import CutRows, is_single

        notes, row, first = Notes(), start.row, start.row
        maker = self._maker(notes)
        if isinstance(maker, CutRows):
            maker.hold(start.rest, start.starts)
        for item in items:
            if item.error is not None:
                raise item.error
            held = maker.held() if isinstance(maker, CutRows) else ()
            mark = Bookmark(item.epoch, item.shard, item.piece, row, *held)
            notes.merge(item.notes)
            if item.encoded is None and not item.is_last:
                continue
            columns = maker.finish() if item.encoded is None else maker.feed(item.encoded)
            cut = [found[0] if is_single(name) else _cut(*found) for name, found in columns.items()]
            for values in zip(*cut, strict=True):
                row += 1
                yield dict(zip(columns, values, strict=True)), mark
            if item.is_last:
                for line in notes.lines(f"{self.config.name} {self.split}") if item.epoch == 0 and not quiet else ():
                    _log.warning("%s", escape_controls(line))
                if item.shard == len(self.shards) - 1:
                    if row == first:
                        raise empty_split(self.config, self.split, notes)
                    first = row
                notes = Notes()
                maker = self._maker(notes)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of one epoch, with the shards in their order; raise DataError for an epoch without rows."""
        for row, _ in self.rows(_first_epoch(self.items(Bookmark(), None)), Bookmark(), quiet=True):
            yield row

    def head(self, count: int | None = SAMPLE) -> "datasets.Dataset":
        """Return the first rows of an epoch as a table in memory, all of them if `count` is None; raise DataError."""
        import datasets
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

        from data_manager.rows.pack import arrow_type

        rows = list(islice(self, count))
        schema = pa.schema([(name, arrow_type(name)) for name in self.column_names])
        columns = {name: [row[name] for row in rows] for name in self.column_names}
        return datasets.Dataset(pa.table(columns, schema=schema))

    def files(self) -> list[list[Any]]:
        """Return name, size in bytes and time of change in ns of each file, in order; empty if there are no files.

        Raises DataError for a missing file.
        """
        found: list[list[Any]] = []

        def note(path: Path) -> str:
            try:
                state = os.stat(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            found.append([path.name, state.st_size, state.st_mtime_ns])
            return ""

        for shard in self.shards:
            # the inputs of these are hashes of all their texts, which take a pass over them
            if not isinstance(getattr(shard, "base", shard), ArrowRows | Listed):
                shard.inputs(note)
        return found

    def _maker(self, notes: Notes) -> "RowMaker":
        return row_maker(self.config, self.tokenizer, self.is_paired, notes)


def _first_epoch(items: Iterable[Item]) -> Iterator[Item]:
    return takewhile(lambda item: item.epoch == 0, items)


def _cut(values: Any, offsets: Any) -> list[Any]:
    return [values[start:end] for start, end in pairwise(offsets.tolist())]
