"""`lengths.json` of a run: how many rows of the split that was trained on have how many tokens.

A diffusion model over whole documents draws the lengths of its samples from them, as GenMol does (arXiv 2501.06158):
behind a row's end nothing was ever trained.
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
"""Tokens of a row, beyond which nobody trains."""
_MOST = 2**53


def count_lengths(rows: Split) -> dict[int, int]:
    """Number of rows by their number of tokens, of a `datasets.Dataset` with `input_ids`; the shortest first."""
    from data_manager.row_lengths import row_lengths

    return dict(sorted(Counter(row_lengths(rows)["input_ids"].tolist()).items()))


def write_lengths(path: Path, counts: Mapping[int, int]) -> None:
    """Write the counts; OSError where the disk is full."""
    write_text(path, json.dumps(stamped({"counts": dict(counts)})) + "\n")


def read_lengths(path: Path) -> dict[int, int]:
    """The counts of a file; raises RunFolderError for one that is damaged."""
    try:
        content = unstamped(from_json(path.read_text(encoding="utf-8")), path)
        counts = content.get("counts", content)  # before there were versions, the counts were all that there was
        found = {int(length): int(count) for length, count in counts.items()}
    except SchemaVersionError as error:
        raise RunFolderError(str(error)) from error
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise RunFolderError(f"{path} cannot be read as counts of lengths: {error}; remove it") from error
    if not found or min(found) < 1 or min(found.values()) < 1:
        raise RunFolderError(f"{path} has a length or a count below 1, or none; remove it")
    if max(found) > LONGEST or max(found.values()) > _MOST:
        raise RunFolderError(f"{path} has a length above {LONGEST:,} or a count above 2^53; remove it")
    return found
