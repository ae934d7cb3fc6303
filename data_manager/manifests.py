"""Manifests of a prepared corpus: cuts of each split, kept on disk under a hash of what they were made from."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_manager.errors import DataError

STAMP = "inputs.json"
"""Written last: a folder without it is incomplete and made again."""
WHOLE = "all"
"""Name of the split of a corpus that its recipe does not divide."""

_log = logging.getLogger(__name__)


def prepared(folder: Path, inputs: Mapping[str, Any], prepare: Callable[[Path], Any]) -> dict[str, Any]:
    """Cuts `{split: CutSet}` made from `inputs`, read from `folder` where they have been made before.

    `prepare` is given an empty folder to write into and returns lhotse's manifests. Raises DataError where the
    folder cannot be written.
    """
    from filelock import FileLock
    from lhotse import CutSet

    text = json.dumps(inputs, sort_keys=True, indent=1, default=str)
    place = folder / sha256(text.encode()).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".lock")):
            if not (place / STAMP).is_file():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                for split, cuts in dict(split_cuts(prepare(place))).items():
                    cuts.to_file(place / f"cuts_{split}.jsonl.gz")
                (place / STAMP).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"manifests cannot be written to {place}: {error}; set global_config.output_dir") from error
    found = sorted(place.glob("cuts_*.jsonl.gz"))
    return {
        path.name.removeprefix("cuts_").removesuffix(".jsonl.gz"): CutSet.from_file(path).to_eager() for path in found
    }


def split_cuts(manifests: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every split in what a recipe returns, `{part: {"recordings", "supervisions"}}` nested to any depth, as cuts.

    A split without recordings is left out, with a warning.
    """
    from lhotse import CutSet

    if isinstance(manifests, CutSet):
        yield name or WHOLE, manifests
    elif "cuts" in manifests:
        yield name or WHOLE, manifests["cuts"]
    elif "recordings" in manifests:
        if len(manifests["recordings"]) == 0:
            _log.warning("split %s has no recordings and is left out", name or WHOLE)
            return
        yield name or WHOLE, CutSet.from_manifests(manifests["recordings"], manifests.get("supervisions"))
    else:
        for part, inner in manifests.items():
            if isinstance(inner, Mapping):
                yield from split_cuts(inner, f"{name}-{part}" if name else str(part))


def fingerprint(folder: Path) -> dict[str, int]:
    """Number, bytes and newest time (ns) of the files below a folder: changes when any of them does."""
    count = size = newest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            status = os.stat(os.path.join(root, name))
            count, size, newest = count + 1, size + status.st_size, max(newest, status.st_mtime_ns)
    return {"files": count, "bytes": size, "newest": newest}
