"""Stream rows: a `datasets.IterableDataset` over the shards of a corpus, tokenised on the fly."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Notes, is_paired
from data_manager.row_types import TokensConfig
from data_manager.rows.encode import build_columns, encode_corpus, row_maker
from data_manager.rows.prepare import empty_split
from data_manager.tokenizers.base import Tokenizer
from model_factory.yaml_config.errors import escape_controls

if TYPE_CHECKING:
    import datasets

_BATCH = 1 << 16
"""Characters in an encoding batch: few, for a low latency of the first row."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamRows:
    """Generator of rows from shards; `datasets` sends it to the workers of a loader with disjoint shards."""

    config: TokensConfig
    tokenizer: Tokenizer
    split: str
    is_paired: bool
    with_source: bool = False

    def __call__(self, shards: Sequence[Corpus]) -> Iterator[dict[str, Any]]:
        """Yield the rows of each shard; log skipped lines at the end of a shard."""
        from data_manager.rows.pack import is_single

        for shard in shards:
            notes = Notes()
            maker = row_maker(self.config, self.tokenizer, self.is_paired, notes, with_source=self.with_source)
            parts = encode_corpus(shard, self.tokenizer, self.config, notes, size=_BATCH, with_source=self.with_source)
            for _, columns in build_columns(maker, parts):
                cut = {name: found[0] if is_single(name) else _rows(*found) for name, found in columns.items()}
                for values in zip(*cut.values(), strict=True):
                    yield dict(zip(cut, values, strict=True))
            for line in notes.lines(f"{self.config.name} {self.split}"):
                _log.warning("%s", escape_controls(line))


def _rows(values: Any, offsets: Any) -> list[Any]:
    return [values[start:end] for start, end in pairwise(offsets.tolist())]


def stream_rows(
    config: TokensConfig, split: str, corpus: Corpus, tokenizer: Tokenizer, *, with_source: bool = False
) -> "datasets.IterableDataset":
    """Return a stream of the rows of a corpus, created again in each epoch; raise DataError if it is empty."""
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

    from data_manager.rows.pack import arrow_type

    paired = is_paired(corpus)
    if paired is None:
        raise empty_split(config, split, Notes())
    columns = row_maker(config, tokenizer, paired, Notes(), with_source=with_source).columns
    features = datasets.Features.from_arrow_schema(pa.schema([(name, arrow_type(name)) for name in columns]))
    make = StreamRows(config, tokenizer, split, paired, with_source)
    return datasets.IterableDataset.from_generator(
        make, features=features, gen_kwargs={"shards": list(corpus.shards())}
    )
