"""Rows made while they are read: a `datasets.IterableDataset` over the shards of a corpus."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Notes, is_paired
from data_manager.text_types import TokensConfig
from data_manager.tokenizer_base import Tokenizer
from yaml_config.errors import harmless

if TYPE_CHECKING:
    import datasets

_BATCH = 1 << 16
"""Characters that are encoded together: few, so that the first row comes soon."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamRows:
    """Makes the rows of shards; `datasets` sends it to the workers of a loader, each with shards of its own."""

    config: TokensConfig
    tokenizer: Tokenizer
    split: str
    is_paired: bool

    def __call__(self, shards: Sequence[Corpus]) -> Iterator[dict[str, Any]]:
        """The rows of each shard. What is left out is logged when a shard has been read."""
        from data_manager.encoding import columns_of, encoded, row_maker
        from data_manager.packing import LABELS

        for shard in shards:
            notes = Notes()
            maker = row_maker(self.config, self.tokenizer, self.is_paired, notes)
            for _, columns in columns_of(maker, encoded(shard, self.tokenizer, self.config, notes, size=_BATCH)):
                cut = {name: found[0] if name == LABELS else _rows(*found) for name, found in columns.items()}
                for values in zip(*cut.values(), strict=True):
                    yield dict(zip(cut, values, strict=True))
            for line in notes.lines(f"{self.config.name} {self.split}"):
                _log.warning("%s", harmless(line))


def _rows(values: Any, offsets: Any) -> list[Any]:
    return [values[start:end] for start, end in pairwise(offsets.tolist())]


def stream_rows(config: TokensConfig, split: str, corpus: Corpus, tokenizer: Tokenizer) -> "datasets.IterableDataset":
    """The rows of a corpus, made anew each time that they are gone through; raises DataError where it is empty."""
    import datasets
    from datasets import Features, List, Value

    from data_manager.encoding import row_maker
    from data_manager.packing import COND, LABELS
    from data_manager.prepare import empty_split

    paired = is_paired(corpus)
    if paired is None:
        raise empty_split(config, split, Notes())
    columns = row_maker(config, tokenizer, paired, Notes()).columns
    kinds = {LABELS: Value("int32"), COND: List(Value("float32"))}
    features = Features({name: kinds.get(name, List(Value("int32"))) for name in columns})
    make = StreamRows(config, tokenizer, split, paired)
    return datasets.IterableDataset.from_generator(
        make, features=features, gen_kwargs={"shards": list(corpus.shards())}
    )
