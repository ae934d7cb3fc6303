"""`lengths.json` of a run: histogram of the row lengths, in tokens, of the training split.

A diffusion model over whole documents draws the lengths of its samples from it, as GenMol does (arXiv 2501.06158), because
positions after a row's end were never trained.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from training.durable import write_text
from training.errors import RunFolderError
from training.splits import Split
from yaml_config.json_text import from_json
from yaml_config.schema_version import SchemaVersionError, stamped, unstamped

LONGEST = 10_000_000
"""Longest plausible row; a larger value means a damaged file. [tokens]"""
_MAX_COUNT = 2**53


def count_lengths(rows: Split) -> dict[int, int]:
    """Count the rows of each length in tokens, of a `datasets.Dataset` with `input_ids`, the shortest first."""
    from data_manager.row_lengths import row_lengths

    return dict(sorted(Counter(row_lengths(rows)["input_ids"].tolist()).items()))


def write_lengths(path: Path, counts: Mapping[int, int]) -> None:
    """Write the counts; raise OSError if the disk is full."""
    write_text(path, json.dumps(stamped({"counts": dict(counts)})) + "\n")


def read_lengths(path: Path) -> dict[int, int]:
    """Read the counts of a file; raise RunFolderError if it is damaged."""
    try:
        content = unstamped(from_json(path.read_text(encoding="utf-8")), path)
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
