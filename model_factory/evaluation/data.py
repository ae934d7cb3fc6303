"""Data to measure a run on that the run does not name: files, a folder of files, or the data set of another YAML file.

How they are read is taken from the run's own data set (layout, length, columns), and the tokenizer is always the run's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_manager.dataset_types import DatasetConfig
from data_manager.registry import SOURCES
from data_manager.row_types import TokensConfig
from data_manager.text.types import FilesConfig
from data_manager.tokenizers.from_run import with_tokenizer_of
from model_factory.evaluation.run import LoadedRun
from model_factory.experiment.config import read_experiment
from model_factory.training.errors import InputFileError, UnfitError
from model_factory.training.splits import select_dataset

SPLIT = "test"
"""Split that files are."""
_COMPRESSED = (".gz", ".bz2", ".xz")
_KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_SHARED = ("text", *sorted({*_KINDS.values()}))
_LEFT_OUT = ("name", "source", "data_files", "splits", "split_seed", "streaming", "shuffle_buffer", "bucketing")
_PAIR = 2


def find_data(run: LoadedRun, paths: Sequence[str], columns: Sequence[str] = ()) -> DatasetConfig:
    """Return the config of the data that `--data` names: a YAML file, a folder, or files; two of text are a pair.

    `columns` are the text column of tables, or the two of pairs. Raises UnfitError for data of another kind than the run's,
    InputFileError for a path that is not there, ConfigError for an invalid YAML file.
    """
    for path in paths:
        if not Path(path).exists():
            raise InputFileError(f"--data {path}: there is no such file or folder")
    if Path(paths[0]).suffix in (".yml", ".yaml"):
        if len(paths) > 1 or columns:
            raise UnfitError(
                f"--data {paths[0]}: a YAML file says all about its data; give neither more files nor --column"
            )
        entry = select_dataset(read_experiment(paths[0], will_train=False).config)
        _check_kind(run, entry, paths[0])
        entry = _with_lengths_of(entry, run.dataset_config)
        return with_tokenizer_of(entry, run.folder, always=run.tokenizer is not None)
    entry = run.dataset_config
    if not isinstance(entry, TokensConfig):
        raise UnfitError(
            f"--data {paths[0]}: {run.folder} is a run on {entry.source} data; give a YAML file with its data set"
        )
    if _is_saved(Path(paths[0])):
        return _make(run, entry, Path(paths[0]).name, "disk", {"path": str(Path(paths[0]).resolve())}, columns)
    files = _files(paths)
    if isinstance(entry, FilesConfig) and entry.source not in _SHARED:  # molecules, or a source of a plugin
        return _make(run, entry, files[0].name, entry.source, {"data_files": {SPLIT: _texts(files)}}, columns)
    kinds = {kind_of_file(file) for file in files}
    if len(kinds) > 1:
        raise UnfitError(
            f"--data: files of the kinds {', '.join(sorted(kinds))} are not one data set; give those of one kind"
        )
    kind = kinds.pop()
    data: dict[str, Any] = {"data_files": {SPLIT: _texts(files)}}
    if kind == "text" and entry.is_paired:
        if len(files) != _PAIR or len(paths) != _PAIR:
            raise UnfitError(f"--data: {run.folder} is a run on pairs; give two files, the sources first, or a table")
        data = {"data_files": {SPLIT: dict(zip(("source", "target"), _texts(files), strict=True))}}
    if kind == "csv":
        data["delimiter"] = "\t" if ".tsv" in files[0].suffixes else ","
    return _make(run, entry, files[0].name, kind, data, columns)


def _with_lengths_of(entry: DatasetConfig, own: DatasetConfig) -> DatasetConfig:
    """Return the data set of a YAML file; keys of its rows that the file leaves out are those of the run's own data set."""
    if not isinstance(entry, TokensConfig) or not isinstance(own, TokensConfig):
        return entry
    left_out = [key for key in ("sequence_length", "rows", "fill") if key not in entry.model_fields_set]
    return entry.model_copy(update={key: getattr(own, key) for key in left_out})


def _check_kind(run: LoadedRun, entry: DatasetConfig, path: str) -> None:
    """Raise UnfitError for data of another kind than the run's."""
    theirs, ours = (_describe_kind(one) for one in (entry, run.dataset_config))
    if theirs != ours:
        raise UnfitError(f"--data {path}: data set {entry.name!r} has {theirs}, and {run.folder} is a run on {ours}")


def _describe_kind(entry: DatasetConfig) -> str:
    if not isinstance(entry, TokensConfig):
        return "recordings"
    if getattr(entry, "label", None) is not None:
        return "texts with classes"
    if entry.is_paired:
        return "pairs of texts"
    return "texts with responses" if entry.has_responses else "texts"


def _make(
    run: LoadedRun, entry: TokensConfig, name: str, kind: str, data: dict[str, Any], columns: Sequence[str]
) -> DatasetConfig:
    """Make a config of source `kind`, with the keys of the run's own data set that it has, too."""
    if entry.has_responses and entry.infill is None and (columns or kind == "text"):
        key = "messages" if getattr(entry, "messages", None) else "template"
        raise UnfitError(
            f"--data {name}: {run.folder} is a run on texts with responses; give a table with the columns of its {key}, "
            "without --column"
        )
    config_type: Any = SOURCES.get(kind).config_type
    keys = {
        key: getattr(entry, key) for key in config_type.model_fields if key not in _LEFT_OUT and hasattr(entry, key)
    }
    if kind == "text":
        keys["documents"] = None if entry.is_paired else getattr(entry, "documents", None) or _document(entry)
    elif len(columns) == _PAIR:
        keys |= {"pair": dict(zip(("source", "target"), columns, strict=True)), "column": None, "template": None}
    elif columns:
        keys |= {"column": columns[0], "pair": None, "template": None}
    elif entry.is_paired and keys.get("pair") is None:
        keys["pair"] = {"source": "source", "target": "target"}
    if columns and kind == "text":
        raise UnfitError(f"--column {columns[0]}: a text file has no columns; leave it out, or give a table")
    try:
        found: DatasetConfig = config_type.model_validate({**keys, "name": name, "source": kind, **data})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UnfitError(f"--data {name}: {'.'.join(map(str, problem['loc']))} {problem['msg']}") from error
    _check_kind(run, found, name)
    return with_tokenizer_of(found, run.folder, always=True)


def _document(entry: TokensConfig) -> str | None:
    """Return the unit of a document in text files for a run on other data: a line where each document is a row."""
    return "line" if entry.layout == "whole" else None


def _files(paths: Sequence[str]) -> list[Path]:
    """Return the files, and those of a folder, sorted by name."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = (
            sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise UnfitError(f"--data {path}: the folder has no files")
        found += inside
    return found


def _texts(files: Sequence[Path]) -> list[str]:
    return [str(file.resolve()) for file in files]


def _is_saved(path: Path) -> bool:
    """Return True for a folder that `save_to_disk` of `datasets` wrote."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def kind_of_file(file: Path) -> str:
    """Return the source that reads a file, by its ending."""
    endings = [ending for ending in file.suffixes if ending not in _COMPRESSED]
    return _KINDS.get(endings[-1] if endings else "", "text")
