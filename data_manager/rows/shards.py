"""Rows of token ids in memory-mapped shards: written once by `--write-shards`, opened without reading them.

A split is a folder of shards of 16 million values. Each column of a shard is one numpy file of concatenated values and, for
lists, one of the offsets of rows: a header that names the type, and raw little-endian values, of ids 2 bytes up to a
vocabulary of 65,536 and 4 beyond. `shards.json` describes all splits, with size, type and SHA-256 of each file, and is written
last. Beside it is the tokenizer.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.errors import DataError
from data_manager.paths import places_of
from data_manager.progress import progress_counter
from data_manager.row_types import TokensConfig
from data_manager.rows.pack import LABELS, arrow_type, is_single, value_type
from data_manager.rows.prepare import plain_name, tokenizer_identity
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.load import load_tokenizer
from model_factory.yaml_config.schema_version import SchemaVersionError, add_version, parse_json, remove_version

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from numpy.typing import NDArray

MANIFEST, TOKENIZER = "shards.json", "tokenizer"
_FREE = {
    *("name", "global_config", "shards", "streaming", "shuffle_buffer"),
    *("bucketing", "document_ids", "position_ids", "fill"),
}
"""Keys of a data set that do not affect its rows."""
_SMALL_VOCABULARY = 1 << 16
"""Ids of vocabularies up to this size take 2 bytes."""
_REMEDY = "copy the folder again, or write it again with --write-shards"
_SHARD = 1 << 24
"""Values in a shard, of all columns."""
_BATCH = 1000
SAMPLE = 1000
"""Rows of a sample."""


class MappedRows:
    """Rows of one split, indexed like a `datasets.Dataset` in numpy format; a shard is mapped when it is first used."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder, self.column_names = folder, list(record["columns"])
        self.identity: str = record["hash"]
        """Hash of the rows, computed when they were written."""
        self.num_labels: int | None = record["classes"]
        self._counts: list[int] = record["rows"]
        self._ends = list(accumulate(record["rows"]))
        self._types: Mapping[str, str] = record.get("types", {})
        self.hashes: Mapping[str, str] = record.get("sha256", {})
        """SHA-256 of each file by its name; empty for a folder of an earlier version."""
        self._open: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._row(index) for index in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """Return a row, the columns of the rows of a list, or a whole column by its name."""
        if isinstance(key, int):
            return self._row(key)
        if isinstance(key, str):
            return [row[key] for row in self]
        rows = [self._row(int(index)) for index in key]
        return {name: [row[name] for row in rows] for name in self.column_names}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}  # a mapped array is pickled with its values

    def with_format(self, name: str) -> "MappedRows":
        """Return itself: its rows are arrays of numpy."""
        return self

    def select(self, indices: Sequence[int]) -> "datasets.Dataset":
        """Return some rows as a table in memory."""
        import datasets
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

        schema = pa.schema([(name, arrow_type(name)) for name in self.column_names])
        return datasets.Dataset(pa.table(self[indices], schema=schema))

    def head(self, count: int = SAMPLE) -> "datasets.Dataset":
        """Return the first rows as a table in memory."""
        return self.select(range(min(count, len(self))))

    def row_lengths(self) -> "dict[str, NDArray[np.int64]]":
        """Return, for each column of ids, the number of tokens in each row; this reads the offsets of all rows."""
        import numpy as np

        names = [name for name in self.column_names if name.endswith("_ids")]
        shards = [self._shard(number) for number in range(len(self._ends))]
        return {name: np.concatenate([np.diff(shard[f"{name}.offsets"]) for shard in shards]) for name in names}

    def lengths_at(self, rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Return the number of tokens of each of the rows int64 [n], over all columns of ids; this reads their offsets."""
        import numpy as np

        numbers, lengths = np.searchsorted(self._ends, rows, side="right"), np.zeros(len(rows), np.int64)
        names = [f"{name}.offsets" for name in self.column_names if name.endswith("_ids")]
        for number in np.unique(numbers).tolist():
            here = numbers == number
            within = rows[here] - (self._ends[number] - self._counts[number])
            shard = self._shard(number)
            lengths[here] = sum(shard[name][within + 1] - shard[name][within] for name in names)
        return lengths

    def _row(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index:,} of {len(self):,}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        shard, within = self._shard(number), index - (self._ends[number - 1] if number else 0)
        row = {}
        for name in self.column_names:
            if is_single(name):
                row[name] = shard[name][within]
            else:
                start, end = shard[f"{name}.offsets"][within : within + 2]
                row[name] = shard[name][start:end].astype(value_type(name), copy=False)
        return row

    def _shard(self, number: int) -> dict[str, Any]:
        import numpy as np

        if number not in self._open:
            places = {name: self.folder / _file_name(number, name) for name in _file_names(self.column_names)}
            try:
                shard = {name: np.asarray(np.load(place, mmap_mode="c")) for name, place in places.items()}
            except (OSError, ValueError) as error:
                raise DataError(f"{self.folder}: shard {number:05d} cannot be read: {error}") from error
            for name, values in shard.items():
                self._check(number, name, values, shard)
            self._open[number] = shard
        return self._open[number]

    def _check(self, number: int, name: str, values: Any, shard: Mapping[str, Any]) -> None:
        """Raise DataError for an array of another type or length than `shards.json` and the offsets name."""
        place = self.folder / _file_name(number, name)
        expected = self._types.get(place.name, values.dtype.str)  # folders of earlier versions do not name types
        if values.dtype.str != expected:
            raise DataError(
                f"{place} has values of type {values.dtype.str}, and was written with {expected}; {_REMEDY}"
            )
        if name.endswith(".offsets"):
            rows, end, held = (
                len(values) - 1,
                values[-1] if len(values) else 0,
                len(shard[name.removesuffix(".offsets")]),
            )
            if end != held:
                raise DataError(f"{place} ends at value {end:,}, and the column has {held:,} values; {_REMEDY}")
        elif f"{name}.offsets" in shard:
            return
        else:
            rows = len(values)
        if rows != self._counts[number]:
            raise DataError(f"{place} has {rows:,} rows, and was written with {self._counts[number]:,}; {_REMEDY}")


def _file_name(number: int, array: str) -> str:
    """Return the name of the file of an array of shard `number`."""
    return f"{number:05d}.{array}.npy"


def _file_names(columns: Sequence[str]) -> list[str]:
    """Return the names of a shard's arrays: the values of each column, and the offsets of lists."""
    return [part for name in columns for part in ((name,) if is_single(name) else (name, f"{name}.offsets"))]


class SplitWriter:
    """Writer of the shards of one split, with ids below `vocab_size`; call `close` after the last rows."""

    def __init__(self, folder: Path, columns: Sequence[str], vocab_size: int) -> None:
        from xxhash import xxh3_128

        folder.mkdir(parents=True)
        self.folder, self.columns, self.vocab_size = folder, list(columns), vocab_size
        self.hashes: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.rows: list[int] = []
        self.tokens = self._count = self._size = 0
        self._classes: int | None = None
        self._held: dict[str, list[Any]] = {name: [] for name in _file_names(columns)}
        self._digest = xxh3_128(repr(self.columns).encode())

    def add(self, values: Mapping[str, Any], lengths: Mapping[str, Any]) -> int:
        """Add rows by column: their concatenated values, and for lists their lengths [rows]; return the number of tokens."""
        tokens, first = 0, self.columns[0]
        self._count += len(values[first] if is_single(first) else lengths[first])
        for name in self.columns:
            self._held[name].append(values[name])
            self._size += len(values[name])
            if not is_single(name):
                self._held[f"{name}.offsets"].append(lengths[name])
            if name.endswith("_ids"):
                tokens += len(values[name])
        self.tokens += tokens
        if self._size >= _SHARD:
            self._write()
        return tokens

    def close(self) -> dict[str, Any]:
        """Write the remaining rows; return the split's entry in `shards.json`."""
        if self._count:
            self._write()
        files = {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}
        return {
            "columns": self.columns,
            "rows": self.rows,
            "tokens": self.tokens,
            "classes": self._classes,
            "hash": f"shards {self._digest.hexdigest()}",
            "files": files,
            "types": self.types,
            "sha256": self.hashes,
        }

    def _write(self) -> None:
        import numpy as np

        for name, parts in self._held.items():
            array = np.concatenate(parts)
            if name.endswith(".offsets"):
                array = np.concatenate([[0], np.cumsum(array)]).astype(np.int64)
            if name == LABELS:
                self._classes = max(self._classes or 2, int(array.max()) + 1)
            self._digest.update(array.tobytes())
            path = self.folder / _file_name(len(self.rows), name)
            np.save(path, array.astype(self._stored_type(name, array)))
            self.types[path.name] = np.load(path, mmap_mode="r").dtype.str
            self.hashes[path.name] = hash_file(path)
        self.rows.append(self._count)
        self._held = {name: [] for name in self._held}
        self._count = self._size = 0

    def _stored_type(self, name: str, array: "NDArray[Any]") -> str:
        """Return the little-endian type of an array's values on the disk, such as `<u2`; raise DataError for wrong ids."""
        if not name.endswith("_ids"):
            return str(array.dtype.newbyteorder("<").str)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise DataError(
                f"{self.folder.name}: {name} has the id {wrong}, and the tokenizer has {self.vocab_size:,} ids"
            )
        return "<u2" if self.vocab_size <= _SMALL_VOCABULARY else "<i4"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shards(folder: Path, config: TokensConfig, splits: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Write the rows of all splits, tables or streams, into a new folder; return the content of its `shards.json`.

    Raises DataError if the folder is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"--write-shards {folder} is not empty; give another folder, or remove it")
    records = {}
    for number, (split, rows) in enumerate(splits.items()):
        writer = SplitWriter(split_folder(folder, number, split), rows.column_names, tokenizer.vocab_size)
        with progress_counter(f"{config.name}: shards of {split}", " tokens") as advance:
            for batch in rows.with_format("numpy").iter(batch_size=_BATCH):
                advance(writer.add(*_flatten(batch)))
        records[split] = writer.close()
    return finish_shards(folder, config, records, tokenizer)


def finish_shards(
    folder: Path, config: TokensConfig, records: Mapping[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Write tokenizer and `shards.json`, which marks the folder as complete; return its content.

    `records` are the results of `SplitWriter.close` by split, of which split number N is in the folder `split_folder(N)`.
    """
    tokenizer.save(folder / TOKENIZER)
    content = {"config": _settings(config), "tokenizer": tokenizer_identity(tokenizer), "splits": records}
    (folder / MANIFEST).write_text(json.dumps(add_version(content)) + "\n", encoding="utf-8")
    return content


def _flatten(batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the concatenated values of each column, and the lengths of lists."""
    import numpy as np

    values, lengths = {}, {}
    for name, column in batch.items():
        kind = value_type(name)
        if is_single(name):
            values[name] = np.asarray(column, kind)
        else:
            values[name] = np.concatenate([np.asarray(row, kind) for row in column])
            lengths[name] = np.array([len(row) for row in column], np.int64)
    return values, lengths


def open_shards(config: TokensConfig) -> dict[str, MappedRows]:
    """Return the splits in the folder `shards` of a data set; the rows are not read.

    Raises DataError if the folder is incomplete, or was written from other settings or by another tokenizer.
    """
    folder, content = _read_manifest(config)
    _check_settings(config, folder, content["config"])
    identity = tokenizer_identity(shards_tokenizer(config))
    if identity != content["tokenizer"]:
        raise DataError(
            f"{folder / TOKENIZER} is not the tokenizer of these shards: its files have changed; write them again"
        )
    found = {}
    for number, (split, record) in enumerate(content["splits"].items()):
        place = split_folder(folder, number, split)
        for name, size in record["files"].items():
            now = (place / name).stat().st_size if (place / name).is_file() else None
            if now != size:
                what = "is missing" if now is None else f"has {now:,} bytes, and was written with {size:,}"
                raise DataError(f"{place / name} {what}; {_REMEDY}")
        found[split] = MappedRows(place, record)
    return found


def shards_tokenizer(config: TokensConfig) -> Tokenizer:
    """Return the tokenizer in the folder `shards` of a data set, loaded once in this process; raise DataError."""
    return _load_tokenizer(str(shards_folder(config) / TOKENIZER))


@cache
def _load_tokenizer(folder: str) -> Tokenizer:
    return load_tokenizer(folder)


def shards_folder(config: TokensConfig) -> Path:
    """Return the folder that the key `shards` names, searched where data files are; the first place if it is missing."""
    assert config.shards is not None
    places = list(places_of(config.shards, config))
    return next(filter(Path.is_dir, places), places[0])


def split_folder(folder: Path, number: int, split: str) -> Path:
    """Return the folder of split `number` in a folder of shards."""
    return folder / f"{number}-{plain_name(split)}"


def _read_manifest(config: TokensConfig) -> tuple[Path, dict[str, Any]]:
    folder = shards_folder(config)
    path = folder / MANIFEST
    remedy = f"write it with --write-shards {config.shards}"
    if not path.is_file():
        raise DataError(
            f"data set {config.name!r}: shards: {folder} has no {MANIFEST}, so it is not complete; {remedy}"
        )
    try:
        content = remove_version(parse_json(path.read_text(encoding="utf-8")), path)
        for record in content["splits"].values():
            if not all(type(count) is int and count > 0 for count in record["rows"]) or not record["rows"]:
                raise ValueError("numbers of rows are invalid")
            record["columns"], record["files"].items(), record["classes"], str(record["hash"])
            if any(set(record[key]) != set(record["files"]) for key in ("types", "sha256") if key in record):
                raise ValueError("types or hashes are not those of the files")
        content["config"].items(), content["tokenizer"]
    except (SchemaVersionError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}; {remedy}") from error
    return folder, content


def _settings(config: TokensConfig) -> dict[str, Any]:
    """Return the keys of a data set that determine its rows."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in _FREE}


def _check_settings(config: TokensConfig, folder: Path, then: Mapping[str, Any]) -> None:
    """Raise DataError that names the keys in which a data set differs from the one that was written."""
    now = _settings(config)
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if changed:
        lines = "".join(f"\n  {key}: {now.get(key)!r}, and {then.get(key)!r} in the shards" for key in changed)
        raise DataError(
            f"data set {config.name!r}: {folder} was written from other settings:{lines}\n"
            "restore them, or write the shards again with --write-shards"
        )
