"""Configs of small data sets in a test's folder, and helpers that decode their rows."""

from pathlib import Path
from typing import Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import GlobalConfig, TokenizerConfig
from data_manager.text.types import TextDatasetConfig

BYTES = TokenizerConfig(type="bytes")


def shared(folder: Path, **more: Any) -> GlobalConfig:
    """Return a config with corpora in `folder` and prepared data in `folder/out`."""
    return GlobalConfig(corpus_dir=str(folder), output_dir=str(folder / "out"), **more)


def text_config(folder: Path, files: Any, *, num_proc: int = 1, **more: Any) -> TextDatasetConfig:
    return TextDatasetConfig(
        name="tiny", data_files=files, global_config=shared(folder, num_proc=num_proc), **{"tokenizer": BYTES, **more}
    )


def texts(config: Any, split: str = "train") -> list[Any]:
    """Decode the rows of a split; pairs as tuples."""
    data = DatasetManager.load_dataset(config)[split]
    tokenizer = DatasetManager.tokenizer(config)
    assert tokenizer is not None
    names = [name for name in data.column_names if name.endswith("_ids")]
    whole = data[:] if hasattr(data, "__len__") else {name: [row[name] for row in data] for name in names}
    sides = [[tokenizer.decode(ids) for ids in whole[name]] for name in names]
    return sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))


def notes(config: Any, split: str = "train") -> list[str]:
    """Return the notes on skipped lines, without the folder of the test."""
    folder = config.global_config.corpus_dir
    return [line.replace(f"{folder}/", "") for line in DatasetManager.preparation(config)[split].notes]
