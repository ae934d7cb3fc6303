"""What earlier settings, other files and killed preparations have left in the folder of a data set."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_manager.prepared_folder import PARTIAL, STAMP, exclusively, is_held, lock_of, used_folders


@dataclass(frozen=True)
class Leftovers:
    """Names of folders in `folder` that no data set loaded by this process uses, and their bytes together."""

    folder: str
    names: tuple[str, ...]
    bytes: int


def leftovers(folder: Path) -> Leftovers | None:
    """What is left in the folder of a data set that has been loaded; None where there is nothing."""
    found = sorted(_unused(folder))
    size = sum(path.stat().st_size for place in found for path in place.rglob("*") if path.is_file())
    return Leftovers(str(folder), tuple(place.name for place in found), size) if found else None


def prune(left: Leftovers) -> None:
    """Remove what is left; a folder that another process is making or looking for waits for it. Raises OSError."""
    for name in left.names:
        place = Path(left.folder) / name
        with exclusively(lock_of(place)):
            if place.is_dir():  # and not made complete, or removed, by another process meanwhile
                (place / STAMP).unlink(missing_ok=True)  # so that a removal cut short leaves none that seems complete
                shutil.rmtree(place)


def _unused(folder: Path) -> Iterator[Path]:
    """Prepared folders that are not in use, and those that were being made when a process was killed."""
    for place in folder.iterdir() if folder.is_dir() else ():
        is_partial = place.name.endswith(PARTIAL)
        if not is_held(lock_of(place)) if is_partial else (place / STAMP).is_file() and place not in used_folders:
            yield place
