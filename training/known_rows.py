"""`rows.json` of a run: a hash of the rows of each split that its data set had, by which edited data are noticed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_manager.row_identity import row_identity
from training.checkpoints import read_json
from training.durable import write_text
from training.errors import RunFolderError
from yaml_config.schema_version import stamped


def describe_rows(splits: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`{split: {"rows": count, "hash": text}}`; a stream, whose rows nobody has counted, is left out."""
    hashes = {name: row_identity(rows) for name, rows in splits.items()}
    return {name: {"rows": len(splits[name]), "hash": found} for name, found in hashes.items() if found is not None}


def write_rows(path: Path, splits: Mapping[str, dict[str, Any]]) -> None:
    """Write what `describe_rows` found; OSError where the disk is full."""
    write_text(path, json.dumps(stamped({"splits": dict(splits)}), indent=1) + "\n")


def changed_rows(path: Path, splits: Mapping[str, Any]) -> list[str]:
    """A sentence for each of these splits that the run had with other rows; a run of before there were hashes has none.

    Raises RunFolderError for a damaged file.
    """
    if not path.is_file():
        return []
    held = read_json(path)
    known = held.get("splits") if isinstance(held, dict) else None
    if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
        raise RunFolderError(f"{path} does not hold hashes of splits; remove it, and changes of the data go unnoticed")
    found = describe_rows({name: rows for name, rows in splits.items() if name in known})
    return [
        f"split {name!r} has other rows than when the run began: {now['rows']:,} now, {known[name].get('rows')} then"
        for name, now in found.items()
        if now["hash"] != known[name].get("hash")
    ]
