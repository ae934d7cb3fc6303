"""Corpora of the splits of sources that read files, and of the embedded text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.documents import Corpus, Joined, Listed
from data_manager.errors import DataError
from data_manager.paths import find_paths
from data_manager.text.arrow import disk_corpora
from data_manager.text.files import PairedFiles, TextFile
from data_manager.text.hub import hub_corpora
from data_manager.text.split import split_by_ratio
from data_manager.text.table_types import DiskDatasetConfig, HubDatasetConfig
from data_manager.text.tables import TableFile, classes_of, messages_of
from data_manager.text.types import CorpusConfig, EmbeddedDatasetConfig, FilesConfig, PairFiles, TextDatasetConfig

if TYPE_CHECKING:
    from data_manager.text.table_types import CsvDatasetConfig, JsonDatasetConfig, ParquetDatasetConfig


_ENDINGS = {
    "text": (".txt", ".text", ".md"),
    "json": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "smiles": (".smi", ".smiles", ".csv", ".tsv", ".txt"),
}
"""Endings of the files that are read from a folder, by source."""


def text_corpora(config: TextDatasetConfig) -> dict[str, Corpus]:
    """Return the documents, or pairs of lines, of each split; raise DataError for a missing file."""
    skip = config.on_invalid == "skip"
    found: dict[str, Corpus] = {}
    for split, files in config.data_files.items():
        if isinstance(files, PairFiles):
            source = files_of(config, files.source, f"the source file of split {split!r},")
            target = files_of(config, files.target, f"the target file of split {split!r},")
            if len(source) != len(target):
                raise DataError(
                    f"source {files.source} matches {len(source)} files, target {files.target} matches {len(target)}"
                )
            found[split] = concatenate(PairedFiles(*pair, skip) for pair in zip(source, target, strict=True))
        else:
            paths = split_paths(config, split)
            found[split] = concatenate(TextFile(path, config.documents or "file", skip) for path in paths)
    return apply_splits(config, found)


def table_corpora(config: "JsonDatasetConfig | CsvDatasetConfig | ParquetDatasetConfig") -> dict[str, Corpus]:
    """Return the documents, or pairs, from the columns of each split's files; raise DataError for a missing file."""
    skip, classes, measured = config.on_invalid == "skip", classes_of(config), config.condition_names
    delimiter, names = getattr(config, "delimiter", ","), tuple(getattr(config, "column_names", None) or ())
    messages = messages_of(config)
    found = {
        split: concatenate(
            TableFile(path, config.source, config.templates, skip, delimiter, classes, measured, names, messages)
            for path in split_paths(config, split)
        )
        for split in config.data_files
    }
    return apply_splits(config, found)


def embedded_corpora(config: EmbeddedDatasetConfig) -> dict[str, Corpus]:
    """Return the topics sorted by name; of ten, eight go to train, one to validation and one to test.

    The text comes from the running Python, so it differs slightly between minor versions.
    """
    from pydoc_data.topics import topics

    texts: list[str] = [topics[name] for name in sorted(topics)]
    return {
        "train": Listed([text for index, text in enumerate(texts) if index % 10 < 8], "topics of train"),
        "validation": Listed(texts[8::10], "topics of validation"),
        "test": Listed(texts[9::10], "topics of test"),
    }


def split_paths(config: FilesConfig, split: str) -> list[Path]:
    """Return the files of a split that is not a pair; raise DataError for a missing file."""
    files = config.data_files[split]
    named = [files] if isinstance(files, str) else list(files) if isinstance(files, list) else []
    return [path for file in named for path in files_of(config, file, f"the file of split {split!r},")]


def files_of(config: FilesConfig, name: str, what: str) -> list[Path]:
    """Return the files that a name with `*` or `?` matches, and those in a folder that the source reads, sorted by name.

    Raises DataError for no match.
    """
    paths = find_paths(name, config, what)
    return [file for path in paths for file in (_files_in(path, config) if path.is_dir() else [path])]


def _files_in(folder: Path, config: FilesConfig) -> list[Path]:
    """Return the files in a folder whose names end as those of the source, compressed or not; raise DataError for none."""
    endings = _ENDINGS.get(config.source, ())
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [path for path in files if any(ending in path.suffixes[-2:] for ending in endings)]
    if not found:
        fitting = ", ".join(f"*{ending}" for ending in endings) or "no known ending"
        raise DataError(
            f"{folder} is a folder without files that source {config.source} reads ({fitting}); name the files: "
            f"{folder / '*'}"
        )
    return found


def concatenate(parts: Iterator[Corpus]) -> Corpus:
    """Concatenate several corpora."""
    found = tuple(parts)
    return found[0] if len(found) == 1 else Joined(found)


def disk_splits(config: DiskDatasetConfig) -> dict[str, Corpus]:
    """Return the corpora of a folder that `datasets` saved, divided by `splits` if it is set; raise DataError."""
    return apply_splits(config, disk_corpora(config))


def hub_splits(config: HubDatasetConfig) -> dict[str, Corpus]:
    """Return the corpora of a data set on the hub, divided by `splits` if it is set; raise DataError."""
    return apply_splits(config, hub_corpora(config))


def apply_splits(config: CorpusConfig, corpora: Mapping[str, Corpus]) -> dict[str, Corpus]:
    """Divide the only corpus by `splits`, if it is set; raise DataError if there are several corpora."""
    if config.splits is None:
        return dict(corpora)
    if len(corpora) != 1:
        raise DataError(
            f"data set {config.name!r}: splits divide a single split; it has {', '.join(corpora)}; remove splits"
        )
    return split_by_ratio(corpora, config.splits, config.split_seed)
