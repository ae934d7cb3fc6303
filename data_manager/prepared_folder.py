"""Folders of prepared data: made to one side, moved into place, known by a hash of all that they were made from.

One process makes a folder while others that want it wait. A folder that was cut short, or whose files have changed
their sizes since, is made again.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_manager.errors import DataError
from yaml_config.errors import harmless, printable
from yaml_config.json_text import from_json
from yaml_config.schema_version import stamped, unstamped

STAMP = "inputs.json"
"""What a folder was made from, what was left out of it, and the sizes of its files; written last."""
PARTIAL = ".partial"
"""Ends the name of a folder that is being made."""
_WAIT = 2.0

Make = Callable[[Path, Path], list[str]]

_log = logging.getLogger(__name__)
used_folders: set[Path] = set()
"""The folders that this process has asked for."""


@dataclass(frozen=True)
class PreparedFolder:
    """A complete folder; `notes` say what was left out when it was made."""

    path: Path
    notes: list[str]


def prepared_folder(parent: Path, inputs: Mapping[str, Any], make: Make, prefix: str = "") -> PreparedFolder:
    """The folder `parent/PREFIX<hash of inputs>`, made by `make` where it is not there.

    `make` is given an empty folder to write into, and the place to which it will be moved; it returns the notes.
    Raises DataError where nothing can be written.
    """
    text = json.dumps(inputs, sort_keys=True, default=str)
    place = parent / f"{prefix}{sha256(text.encode()).hexdigest()[:12]}"
    used_folders.add(place)
    found = _complete(place)
    if found is not None:
        return found
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with exclusively(lock_of(place)):
            found = _complete(place)  # another process may have made it meanwhile
            return found if found is not None else _made(place, inputs, make)
    except OSError as error:
        raise DataError(
            f"prepared data cannot be written to {place}: {error.strerror or error}; set global_config.output_dir"
        ) from error


def discard(folder: PreparedFolder, reason: object) -> None:
    """Have a folder made again by the next call, as what is in it cannot be used."""
    _log.warning("%s", harmless(f"{folder.path} cannot be used ({reason}) and is made again"))
    (folder.path / STAMP).unlink(missing_ok=True)


def _made(place: Path, inputs: Mapping[str, Any], make: Make) -> PreparedFolder:
    aside = place.with_name(f".{place.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)  # what an interrupted preparation left
    aside.mkdir()
    try:
        notes = make(aside, place)
        sizes = {path.name: path.stat().st_size for path in sorted(aside.iterdir()) if path.is_file()}
        stamp = json.dumps(stamped({"inputs": inputs, "notes": notes, "sizes": sizes}), indent=1, default=str)
        (aside / STAMP).write_text(stamp + "\n", encoding="utf-8")
        if place.exists():
            _log.warning("%s was incomplete and is made again", printable(str(place)))
            shutil.rmtree(place)
        os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return PreparedFolder(place, notes)


def _complete(place: Path) -> PreparedFolder | None:
    """The folder, where its stamp can be read and every file has the size that it had when it was made."""
    try:
        stamp = unstamped(from_json((place / STAMP).read_text(encoding="utf-8")), place)
        whole = all((place / name).stat().st_size == size for name, size in stamp["sizes"].items())
        return PreparedFolder(place, list(stamp["notes"])) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lock_of(place: Path) -> Path:
    """The lock of a prepared folder, also of one that is being made."""
    name = place.name.removeprefix(".").removesuffix(PARTIAL)
    return place.with_name(f".{name}.lock")


def is_held(path: Path) -> bool:
    """Whether some process holds a lock; one that may not be tried counts as held."""
    from filelock import FileLock, Timeout

    try:
        FileLock(str(path)).acquire(blocking=False).lock.release()
    except (Timeout, OSError):
        return True
    return False


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock; the system lets go of it when its holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=_WAIT)
    except Timeout:
        name = printable(path.name.removesuffix(".lock").lstrip("."))
        _log.warning("another process prepares %s; waiting for it", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
