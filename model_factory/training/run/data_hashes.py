"""`rows.json` of a run: data hashes of each split, to detect data that changed since the run started."""

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from data_manager.rows.identity import row_identity
from data_manager.rows.lengths import row_lengths
from data_manager.rows.pack import STARTS
from data_manager.rows.token_stream import TokenStream
from model_factory.training.errors import RunFolderError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import read_json
from model_factory.training.splits import Split, is_table
from model_factory.yaml_config.errors import escape_line
from model_factory.yaml_config.schema_version import SchemaVersionError, add_version, parse_json, remove_version


class SplitRecord(TypedDict):
    """Number of rows of a split, and their hash; of a stream 0, and that of its files with name, size and time."""

    rows: int
    hash: str
    files: NotRequired[list[list[Any]]]


def hash_splits(splits: Mapping[str, Split | TokenStream]) -> dict[str, SplitRecord]:
    """Hash the rows of each split: `{split: {"rows": count, "hash": text}}`; of a stream, names and times of its files.

    Streams that a source made are left out.
    """
    records: dict[str, SplitRecord] = {}
    for name, rows in splits.items():
        if isinstance(rows, TokenStream):
            files = rows.files()
            records[name] = {"rows": 0, "hash": sha256(json.dumps(files).encode()).hexdigest(), "files": files}
        elif (found := row_identity(rows)) is not None:
            records[name] = {"rows": len(rows), "hash": found}
    return records


def write_split_hashes(path: Path, splits: Mapping[str, SplitRecord]) -> None:
    """Write the hashes from `hash_splits`; raise OSError if the disk is full."""
    write_text(path, json.dumps(add_version({"splits": dict(splits)}), indent=1) + "\n")


def read_split_hashes(path: Path) -> dict[str, SplitRecord]:
    """Read the hashes of a run, an empty dictionary without the file; raise RunFolderError if it is damaged."""
    if not path.exists():
        return {}
    held = read_json(path)
    known = held.get("splits") if isinstance(held, dict) else None
    if not isinstance(known, dict) or not all(map(_is_entry, known.values())):
        raise RunFolderError(
            f"{path} does not hold hashes of splits; remove it to resume without a check for changed data"
        )
    return known


def find_changed_splits(path: Path, splits: Mapping[str, Split | TokenStream]) -> dict[str, str]:
    """Check data hashes: return a sentence for each split, by name, that is missing or has other rows than the run had.

    Return an empty dictionary for a run without rows.json. Raises RunFolderError for a damaged file.
    """
    known = read_split_hashes(path)
    now = hash_splits({name: rows for name, rows in splits.items() if name in known})
    return {
        name: _describe_change(name, then, now.get(name))
        for name, then in known.items()
        if name not in now or now[name]["hash"] != then["hash"]
    }


def _is_entry(entry: object) -> bool:
    if not (isinstance(entry, dict) and type(entry.get("rows")) is int and isinstance(entry.get("hash"), str)):
        return False
    files = entry.get("files", [])
    return isinstance(files, list) and all(isinstance(file, list) and _is_file(file) for file in files)


def _is_file(file: list[object]) -> bool:
    return [type(value) for value in file] == [str, int, int]


def _describe_change(name: str, then: SplitRecord, now: SplitRecord | None) -> str:
    """Describe how a split differs from when the run began."""
    split = f"split {escape_line(name)!r}"
    if now is None:
        return f"{split}, which the run had when it began, is missing"
    if "files" in now and "files" in then:
        return f"{split} is read from other files than when the run began: {_first_difference(then, now)}"
    if now["rows"] == then["rows"]:
        return f"{split} has as many rows as when the run began, {now['rows']:,}, but other content"
    return f"{split} has other rows than when the run began: {now['rows']:,} now, {then['rows']:,} then"


def _first_difference(then: SplitRecord, now: SplitRecord) -> str:
    """Name the first file of a stream that differs."""
    before, after = then["files"], now["files"]
    if len(before) != len(after):
        return f"{len(after):,} now, {len(before):,} then"
    number = next(number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
    (name, size, _), (other, length, _) = before[number], after[number]
    if name != other:
        return f"{escape_line(other)} now, {escape_line(name)} then"
    how = "another time of change" if size == length else f"{length:,} bytes now, {size:,} then"
    return f"{escape_line(name)} has {how}"


# `lengths.json` of a run: histogram of the lengths, in tokens, of the documents of the training split.


LONGEST = 10_000_000
"""Longest plausible row; a larger value means a damaged file. [tokens]"""


_MAX_COUNT = 2**53


def count_lengths(rows: Split) -> dict[int, int]:
    """Count the documents of each length in tokens, the shortest first, of a `datasets.Dataset` with `input_ids`.

    A row is a document, or in packed rows several, of which those that a row end cuts count as two.
    """
    lengths = row_lengths(rows)["input_ids"].tolist()
    if is_table(rows) and STARTS in rows.column_names:
        starts = rows.with_format("arrow")[STARTS].to_pylist()
        edges = ([0, *inside, length] for inside, length in zip(starts, lengths, strict=True))
        lengths = [end - start for row in edges for start, end in pairwise(row)]
    return dict(sorted(Counter(lengths).items()))


def write_lengths(path: Path, counts: Mapping[int, int]) -> None:
    """Write the counts; raise OSError if the disk is full."""
    write_text(path, json.dumps(add_version({"counts": dict(counts)})) + "\n")


def read_lengths(path: Path) -> dict[int, int]:
    """Read the counts of a file; raise RunFolderError if it is damaged."""
    try:
        content = remove_version(parse_json(path.read_text(encoding="utf-8")), path)
        counts = content.get("counts", content)  # files without a schema version hold only the counts
        found = {int(length): int(count) for length, count in counts.items()}
    except SchemaVersionError as error:
        raise RunFolderError(str(error)) from error
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise RunFolderError(f"{path} cannot be read as counts of lengths: {error}; remove it") from error
    if not found or min(found) < 1 or min(found.values()) < 1:
        raise RunFolderError(f"{path} is empty or has a length or a count below 1; remove it")
    if max(found) > LONGEST or max(found.values()) > _MAX_COUNT:
        raise RunFolderError(f"{path} has a length above {LONGEST:,} or a count above 2^53; remove it")
    return found
