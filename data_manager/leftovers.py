"""Stale caches in the folder of a data set: from earlier settings, other files and killed preparations."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_manager.prepared_folder import PARTIAL, STAMP, exclusively, is_held, lock_of, used_folders


@dataclass(frozen=True)
class Leftovers:
    """Names of folders in `folder` that no data set loaded by this process uses, and their total bytes."""

    folder: str
    names: tuple[str, ...]
    bytes: int


def leftovers(folder: Path) -> Leftovers | None:
    """Find stale caches in the folder of a loaded data set; or return None."""
    found = sorted(_unused(folder))
    size = sum(path.stat().st_size for place in found for path in place.rglob("*") if path.is_file())
    return Leftovers(str(folder), tuple(place.name for place in found), size) if found else None


def prune(left: Leftovers) -> None:
    """Remove stale caches, waiting for the lock of each; raise OSError."""
    for name in left.names:
        place = Path(left.folder) / name
        with exclusively(lock_of(place)):
            if place.is_dir():  # unless another process completed or removed it meanwhile
                (place / STAMP).unlink(
                    missing_ok=True
                )  # so that an interrupted removal leaves no folder that seems complete
                shutil.rmtree(place)


def _unused(folder: Path) -> Iterator[Path]:
    """Yield prepared folders that are not in use, and partial ones of killed processes."""
    for place in folder.iterdir() if folder.is_dir() else ():
        is_partial = place.name.endswith(PARTIAL)
        if not is_held(lock_of(place)) if is_partial else (place / STAMP).is_file() and place not in used_folders:
            yield place
