"""Load, tokenise and batch data sets from their configs.

    python -m data_manager.data_manager --config experiment.yml
    python -m data_manager.data_manager --list

The first loads the data sets of a file and prints a summary; the second lists the available sources and corpora.
"""

import ast
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from pydantic import ValidationError

from data_manager import loading
from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError
from data_manager.registry import SOURCES, SourceEntry
from data_manager.speech.recipes import recipe_names, recipe_signature
from data_manager.speech_settings import LoadingConfig
from data_manager.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    import datasets
    from lhotse import CutSet
    from torch.utils.data import DataLoader

    from data_manager.rows.prepare import PreparedSplit
    from data_manager.rows.token_stream import TokenStream

    Split: TypeAlias = CutSet | datasets.Dataset | datasets.IterableDataset


class DatasetManager:
    """Facade for loading, tokenising and batching data sets. All methods are static: the config holds all settings."""

    @staticmethod
    def load_datasets(datasets: Sequence[DatasetConfig]) -> "dict[str, dict[str, Split]]":
        """Load every config and return `{name: {split: CutSet | datasets.Dataset}}`; raise DataError.

        Text has the column `input_ids`, pairs have `source_ids` and `target_ids`; speech has one cut per recording.
        """
        names = [config.name for config in datasets]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise DataError(f"two data sets have the name {double!r}; names must differ")
        return {config.name: DatasetManager.load_dataset(config) for config in datasets}

    @staticmethod
    def load_dataset(config: DatasetConfig) -> "dict[str, Split]":
        """Load the splits of one data set; raise DataError.

        Text is tokenised once and cached in output_dir/name, or tokenised on the fly with `streaming`. Skipped rows
        are logged as warnings and are also listed by `preparation`.
        """
        return loading.load(_resolve(config)[0])

    @staticmethod
    def open_streams(config: DatasetConfig) -> "dict[str, TokenStream]":
        """Return the splits of a data set with `streaming` as endless streams to train on; raise DataError."""
        typed: Any = _resolve(config)[0]
        return loading.open_streams(typed)

    @staticmethod
    def load_with_source(config: DatasetConfig, split: str, rows: int | None = None) -> "PreparedSplit | None":
        """Load at least the first `rows` of a split with their text (`data_manager.rows.source`), in the same order.

        Return None for data without text: speech, and custom sources of token ids. Raise DataError.
        """
        return loading.load_with_source(_resolve(config)[0], split, rows)

    @staticmethod
    def preparation(config: DatasetConfig) -> "dict[str, PreparedSplit]":
        """Return document and token counts, skip log and cache folder of each loaded text split; empty for other data."""
        return loading.prepared_splits(_resolve(config)[0])

    @staticmethod
    def tokenizer(config: DatasetConfig) -> Tokenizer | None:
        """Return the tokenizer, or None without one; a learned tokenizer reads the training text. Raise DataError."""
        return loading.tokenizer_for(_resolve(config)[0])

    @staticmethod
    def collator(config: DatasetConfig, data: "Split", *, fill: bool = True) -> Callable[[Any], dict[str, Any]]:
        """Return the collate function for rows of `data`, see `data_manager.rows.collate`; raise DataError.

        Without `fill`, rows are padded even if the config fills them with end tokens, as a decoder needs it.
        """
        from data_manager.rows.collate import PairCollator, TextCollator

        config, _ = _resolve(config)
        columns = getattr(data, "column_names", None)
        tokenizer = DatasetManager.tokenizer(config)
        if columns is None:
            from data_manager.speech.loader import speech_collator

            return speech_collator(config, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer else 0
        if "source_ids" in columns and "target_ids" in columns:
            return PairCollator(pad)
        if "input_ids" in columns:
            isolated, positions = getattr(config, "document_ids", False), getattr(config, "position_ids", False)
            is_filled = fill and tokenizer is not None and getattr(config, "is_filled", False)
            ends = (config.limit, tokenizer.eos_token_id) if is_filled else None  # type: ignore[attr-defined,union-attr]
            return TextCollator(pad, isolated, positions, ends)
        raise DataError(
            f"data set {config.name!r} has the columns {', '.join(columns)}; batches need input_ids, or source_ids and "
            "target_ids"
        )

    @staticmethod
    def augmenter(config: DatasetConfig, seed: int = 0) -> "Callable[[Any, int], Any] | None":
        """Return the function (cut, epoch) -> changed cut of the config's `augmentation`, or None without one.

        It loads the entries with noise and impulse responses. Raise DataError.
        """
        if getattr(config, "augmentation", None) is None:
            return None
        from data_manager.speech.augment import Augmenter

        return Augmenter.of(config, seed)

    @staticmethod
    def create_dataloader(
        data: "Split",
        config: DatasetConfig,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int | None = None,
        augment: bool = False,
    ) -> "DataLoader[dict[str, Any]]":
        """Return a DataLoader over one split, whose last batch may be smaller; raise DataError.

        Text gives `{"input_ids": [B, L] int64, "attention_mask": [B, L]}` (and `document_ids` and `position_ids` if the
        config sets them, see `TextCollator`), and `response_mask` for rows with responses. Pairs give `source_ids`,
        `source_mask`, `target_ids`, `target_mask`.
        Speech gives `{"features": [B, T, F] float32, "feature_mask": [B, T], "text": [str]}`.
        Masks are bool, True at real positions. With `shuffle`, `seed` fixes the order of the first epoch and each later
        epoch has a new order; a stream is shuffled within its `shuffle_buffer`. With `bucketing`, a batch has rows of
        similar lengths. With `loading.max_duration`, a speech batch is limited in seconds instead of by `batch_size`.
        `num_workers` defaults to that of the config's `loading`, or 0. With `augment`, for training, cuts are changed by the
        config's `augmentation`, anew in each iteration.
        """
        from data_manager.rows.loader import row_loader

        collate = DatasetManager.collator(config, data)
        loading = getattr(_resolve(config)[0], "loading", LoadingConfig())
        num_workers = loading.num_workers if num_workers is None else num_workers
        change = DatasetManager.augmenter(_resolve(config)[0], seed) if augment else None
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "num_workers": num_workers}
        if not hasattr(data, "column_names") and loading.max_duration is not None:
            from data_manager.speech.loader import bucketed_loader

            return bucketed_loader(data, collate, loading, change=change, **order)
        if hasattr(data, "column_names"):
            return row_loader(data, _resolve(config)[0], collate, batch_size=batch_size, **order)
        from data_manager.speech.loader import cut_loader

        return cut_loader(data, collate, change=change, batch_size=batch_size, **order)

    @staticmethod
    def list_available_datasets() -> list[str]:
        """List the names valid for an entry of `datasets` without `source`: lhotse's speech corpora, sorted."""
        return recipe_names()

    @staticmethod
    def describe_available_datasets() -> dict[str, str]:
        """Map every source, and every speech corpus with a lhotse recipe, to a one-line description."""
        return catalogue()


def _resolve(config: DatasetConfig) -> tuple[DatasetConfig, SourceEntry]:
    """Convert the config to its source's config type, as `DatasetConfig(name="librispeech")` to lhotse's.

    Return it with the source's registry entry; raise DataError if required keys are missing.
    """
    entry = SOURCES.get(config.source)
    if isinstance(config, entry.config_type):
        return config, entry
    try:
        typed: Any = entry.config_type.model_validate(config.model_dump())
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise DataError(
            f"data set {config.name!r} of source {config.source!r} is incomplete (see {missing}); "
            f"use {entry.config_type.__name__}"
        ) from error
    return typed, entry


# Catalogue of the data sources and of the speech corpora with a lhotse recipe, one line each.


def catalogue() -> dict[str, str]:
    """Map `source: NAME` of each data source, and the name of each corpus, to a one-line description."""
    found = {f"source: {name}": first_sentence(SOURCES.get(name).config_type.__doc__ or "") for name in SOURCES}
    return found | {name: _describe_recipe(name) for name in recipe_names()}


def print_catalogue() -> None:
    """Print the catalogue on stdout, one entry per line."""
    lines = catalogue()
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name.ljust(width)}  {line}")


def first_sentence(text: str) -> str:
    """Return a docstring's first sentence on one line, without backquotes."""
    paragraph = text.strip().split("\n\n", 1)[0]
    sentence = re.split(r"(?<=[a-z)\]])\.\s", " ".join(paragraph.split()) + " ", maxsplit=1)[0]
    return sentence.strip().removesuffix(".").replace("`", "")


def _describe_recipe(name: str) -> str:
    """Describe a corpus from its recipe's module docstring, and say if it can be downloaded."""
    recipe = recipe_signature(name)
    spec = find_spec("lhotse")
    assert spec, "recipes are listed only if lhotse is installed"
    source = (Path(spec.origin or "").parent / "recipes" / f"{recipe.module}.py").read_text(encoding="utf-8")
    text = first_sentence(ast.get_docstring(ast.parse(source)) or "")
    text = re.sub(r"^(About (the )?|This is an? |Description taken from )", "", text).rstrip(":")
    known = text if 0 < len(text) <= 110 else f"{text[:107]}..." if text else "a speech corpus"
    return f"{known} ({'downloaded if missing' if recipe.can_download else 'manual download'})"


if __name__ == "__main__":
    # this package must not import the command line, so it is imported by name
    sys.exit(import_module("model_factory.cli.data").main())
