"""The sources `text` and `embedded`: documents and line-aligned pairs to rows of token ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.dataset_types import EmbeddedDatasetConfig, PairFiles, TextDatasetConfig
from data_manager.text_files import find_path, read_lines, read_text
from data_manager.tokenizer_factory import make_tokenizer

if TYPE_CHECKING:
    import datasets

DEFAULT_LENGTH = 256
"""Tokens of a row where the data set does not say."""


def load_text(config: TextDatasetConfig) -> "dict[str, datasets.Dataset]":
    """Rows of token ids of each split, see `packing.pack` and `packing.pair`; raises DataError."""
    from data_manager.packing import pair

    if not config.is_paired:
        return _packed(config, _documents(config))
    sides = _paired_lines(config)
    tokenizer = make_tokenizer(config, lambda: {split: _flat(lines) for split, lines in sides.items()})
    names = {split: tuple(map(str, pair_paths(config, split))) for split in sides}
    return {
        split: pair(lines, tokenizer, config.sequence_length, (names[split][0], names[split][1]))
        for split, lines in sides.items()
    }


def text_texts(config: TextDatasetConfig) -> dict[str, Sequence[str]]:
    """The texts of each split, of both sides where they are pairs; raises DataError."""
    if not config.is_paired:
        return dict(_documents(config))
    return {split: _flat(sides) for split, sides in _paired_lines(config).items()}


def load_embedded(config: EmbeddedDatasetConfig) -> "dict[str, datasets.Dataset]":
    """Rows of token ids of Python's documentation; each topic is a document."""
    return _packed(config, embedded_texts(config))


def embedded_texts(config: EmbeddedDatasetConfig) -> dict[str, Sequence[str]]:
    """Topics in the order of their names; of ten, eight go to train, one to validation and one to test.

    The text is that of the running Python, so it differs a little from one minor version to the next.
    """
    from pydoc_data.topics import topics

    texts: list[str] = [topics[name] for name in sorted(topics)]
    return {
        "train": [text for index, text in enumerate(texts) if index % 10 < 8],
        "validation": texts[8::10],
        "test": texts[9::10],
    }


def pair_paths(config: TextDatasetConfig, split: str) -> tuple[Path, Path]:
    """Where the two files of a split lie; raises DataError."""
    files = config.data_files[split]
    assert isinstance(files, PairFiles)
    source = find_path(files.source, config, f"the source file of split {split!r},")
    return source, find_path(files.target, config, f"the target file of split {split!r},")


def _paired_lines(config: TextDatasetConfig) -> dict[str, tuple[list[str], list[str]]]:
    """The lines of the two files of each split."""
    paths = {split: pair_paths(config, split) for split in config.data_files}
    return {split: (read_lines(source), read_lines(target)) for split, (source, target) in paths.items()}


def _flat(sides: tuple[list[str], list[str]]) -> list[str]:
    return [*sides[0], *sides[1]]


def _documents(config: TextDatasetConfig) -> dict[str, Sequence[str]]:
    """The text of each file of each split."""
    named = {split: [files] if isinstance(files, str) else files for split, files in config.data_files.items()}
    paths = {
        split: [find_path(file, config, f"the file of split {split!r},") for file in files]
        for split, files in named.items()
        if not isinstance(files, PairFiles)
    }
    return {split: [read_text(path) for path in found] for split, found in paths.items()}


def _packed(
    config: TextDatasetConfig | EmbeddedDatasetConfig, documents: Mapping[str, Sequence[str]]
) -> "dict[str, datasets.Dataset]":
    from data_manager.packing import pack

    tokenizer = make_tokenizer(config, lambda: documents)
    length = config.sequence_length or DEFAULT_LENGTH
    return {split: pack(texts, tokenizer, length, f"{config.name} {split}") for split, texts in documents.items()}
