"""Data sets by their configs: loaded, tokenised and made into batches with masks.

    python -m data_manager.data_manager --config experiment.yml
    python -m data_manager.data_manager --list

loads the data sets of a file and shows what they hold, or names what can be had.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from data_manager import (
    loading,
    sources,  # noqa: F401  (registers the built-in ones)
)
from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError
from data_manager.lhotse_recipes import recipe_names
from data_manager.registry import SOURCES, SourceEntry
from data_manager.speech_loader import bucketed_loader, speech_collator
from data_manager.speech_settings import LoadingConfig
from data_manager.tokenizer_base import Tokenizer

if TYPE_CHECKING:
    import datasets
    from lhotse import CutSet
    from torch.utils.data import DataLoader

    from data_manager.prepare import PreparedSplit

    Split: TypeAlias = CutSet | datasets.Dataset | datasets.IterableDataset


class DatasetManager:
    """Everything that is done with data sets; all methods are static, as a config says all that there is to know."""

    @staticmethod
    def load_datasets(datasets: Sequence[DatasetConfig]) -> "dict[str, dict[str, Split]]":
        """`{name: {split: CutSet | datasets.Dataset}}` of each config; raises DataError.

        Text has rows `input_ids`, pairs `source_ids` and `target_ids`; speech has one cut a recording.
        """
        names = [config.name for config in datasets]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise DataError(f"two data sets have the name {double!r}; names must differ")
        return {config.name: DatasetManager.load_dataset(config) for config in datasets}

    @staticmethod
    def load_dataset(config: DatasetConfig) -> "dict[str, Split]":
        """The splits of one data set; raises DataError.

        Text is tokenised once and kept in output_dir/name, or with `streaming` made while it is read. What is left out
        is logged as warnings, and kept by `preparation`.
        """
        return loading.load(_resolved(config)[0])

    @staticmethod
    def preparation(config: DatasetConfig) -> "dict[str, PreparedSplit]":
        """Documents, tokens, what was left out and where it is kept, for each split of text that was loaded; or empty."""
        return loading.prepared_splits(_resolved(config)[0])

    @staticmethod
    def tokenizer(config: DatasetConfig) -> Tokenizer | None:
        """The data set's tokenizer, None where it has none; one that is learnt reads the training text. Raises DataError."""
        return loading.tokenizer_for(_resolved(config)[0])

    @staticmethod
    def collator(config: DatasetConfig, data: "Split") -> Callable[[Any], dict[str, Any]]:
        """What makes a list of rows of `data` into a batch, see `data_manager.collation`; raises DataError."""
        from data_manager.collation import PairCollator, TextCollator

        config, _ = _resolved(config)
        columns = getattr(data, "column_names", None)
        tokenizer = DatasetManager.tokenizer(config)
        if columns is None:
            return speech_collator(config, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer else 0
        if "source_ids" in columns and "target_ids" in columns:
            return PairCollator(pad)
        if "input_ids" in columns:
            return TextCollator(pad, getattr(config, "document_ids", False), getattr(config, "position_ids", False))
        raise DataError(
            f"data set {config.name!r} has the columns {', '.join(columns)}; batches are made of input_ids, or of "
            "source_ids and target_ids"
        )

    @staticmethod
    def create_dataloader(
        data: "Split",
        config: DatasetConfig,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int | None = None,
    ) -> "DataLoader[dict[str, Any]]":
        """Batches of one split, the last one smaller where it has to be; raises DataError.

        Text gives `{"input_ids": [B, L] int64, "attention_mask": [B, L]}` (and `document_ids` and `position_ids` where the
        config asks for them, see `TextCollator`), pairs `source_ids`, `source_mask`,
        `target_ids`, `target_mask`, speech `{"features": [B, T, F] float32, "feature_mask": [B, T], "text": [str]}`.
        Masks are bool, True at what is real. With `shuffle`, `seed` decides the order of the first pass; each later
        pass has another; a stream is shuffled within its `shuffle_buffer`. With `bucketing` a batch has rows of like
        lengths. Speech with `loading.max_duration` comes in batches of so many seconds instead of
        `batch_size` cuts; where `num_workers` is left out it is that of the config's `loading`, or 0.
        """
        import torch
        from torch.utils.data import DataLoader

        from data_manager.text_loader import row_loader

        collate = DatasetManager.collator(config, data)
        loading = getattr(_resolved(config)[0], "loading", LoadingConfig())
        num_workers = loading.num_workers if num_workers is None else num_workers
        if not hasattr(data, "column_names") and loading.max_duration is not None:
            return bucketed_loader(data, collate, loading, shuffle=shuffle, seed=seed, num_workers=num_workers)
        if hasattr(data, "column_names"):
            order: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed}
            return row_loader(data, _resolved(config)[0], collate, **order, num_workers=num_workers)
        return DataLoader(
            _Cuts(data),  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=shuffle,
            generator=torch.Generator().manual_seed(seed),
            num_workers=num_workers,
            collate_fn=collate,
        )

    @staticmethod
    def list_available_datasets() -> list[str]:
        """Names that an entry of `datasets` without `source` can have: the speech corpora of lhotse, sorted."""
        return recipe_names()

    @staticmethod
    def describe_available_datasets() -> dict[str, str]:
        """Every source, and every speech corpus that lhotse has a recipe for, with a line on each."""
        from data_manager.catalogue import catalogue

        return catalogue()


class _Cuts:
    """Cuts by their position, as a DataLoader asks for them."""

    def __init__(self, cuts: Any) -> None:
        self.cuts = list(cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Any:
        return self.cuts[index]


def _resolved(config: DatasetConfig) -> tuple[DatasetConfig, SourceEntry]:
    """The config as its source's own type, and the source: `DatasetConfig(name="librispeech")` is one of lhotse's."""
    entry = SOURCES.get(config.source)
    if isinstance(config, entry.config_type):
        return config, entry
    try:
        own: Any = entry.config_type.model_validate(config.model_dump())
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise DataError(
            f"data set {config.name!r} of source {config.source!r} is not complete (see {missing}); "
            f"make it a {entry.config_type.__name__}"
        ) from error
    return own, entry


if __name__ == "__main__":
    from data_manager.command import main

    sys.exit(main())
