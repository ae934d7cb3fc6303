"""Cached folders of prepared data: written to a temporary folder, moved into place, and keyed by a hash of all inputs.

One process creates a folder while others wait for it. An incomplete folder, or one whose files have changed their sizes,
is created again.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_manager.errors import DataError
from model_factory.yaml_config.errors import escape_controls, escape_line
from model_factory.yaml_config.schema_version import add_version, parse_json, remove_version

STAMP = "inputs.json"
"""File with the inputs of a folder, notes on skipped lines, and the sizes of its files; written last."""


PARTIAL = ".partial"
"""Suffix of a folder that is being written."""


_WAIT = 2.0


Make = Callable[[Path, Path], list[str]]


_log = logging.getLogger(__name__)


used_folders: set[Path] = set()
"""Folders that this process has requested."""


@dataclass(frozen=True)
class PreparedFolder:
    """A complete folder; `notes` list the lines that were skipped."""

    path: Path
    notes: list[str]


def prepared_folder(parent: Path, inputs: Mapping[str, Any], make: Make, prefix: str = "") -> PreparedFolder:
    """Return the folder `parent/PREFIX<hash of inputs>`; create it by `make` if it is missing.

    `make` gets an empty folder to write into and the path to which it will be moved, and returns the notes. Raise
    DataError if the folder cannot be written.
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
            found = _complete(place)  # another process may have created it meanwhile
            return found if found is not None else _made(place, inputs, make)
    except OSError as error:
        raise DataError(
            f"prepared data cannot be written to {place}: {error.strerror or error}; set global_config.output_dir"
        ) from error


def discard(folder: PreparedFolder, reason: object) -> None:
    """Invalidate a folder with unusable content; the next call creates it again."""
    _log.warning("%s", escape_controls(f"{folder.path} is unusable ({reason}) and will be created again"))
    (folder.path / STAMP).unlink(missing_ok=True)


def _made(place: Path, inputs: Mapping[str, Any], make: Make) -> PreparedFolder:
    aside = place.with_name(f".{place.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)  # the rest of an interrupted preparation
    aside.mkdir()
    try:
        notes = make(aside, place)
        sizes = {path.name: path.stat().st_size for path in sorted(aside.iterdir()) if path.is_file()}
        stamp = json.dumps(add_version({"inputs": inputs, "notes": notes, "sizes": sizes}), indent=1, default=str)
        (aside / STAMP).write_text(stamp + "\n", encoding="utf-8")
        if place.exists():
            _log.warning("%s was incomplete and is created again", escape_line(str(place)))
            shutil.rmtree(place)
        os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return PreparedFolder(place, notes)


def _complete(place: Path) -> PreparedFolder | None:
    """Return the folder if its stamp is readable and every file has its original size."""
    try:
        stamp = remove_version(parse_json((place / STAMP).read_text(encoding="utf-8")), place)
        whole = all((place / name).stat().st_size == size for name, size in stamp["sizes"].items())
        return PreparedFolder(place, list(stamp["notes"])) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lock_of(place: Path) -> Path:
    """Return the lock file of a prepared folder, complete or partial."""
    name = place.name.removeprefix(".").removesuffix(PARTIAL)
    return place.with_name(f".{name}.lock")


def is_held(path: Path) -> bool:
    """Return True if a process holds a lock, or if the lock cannot be tried."""
    from filelock import FileLock, Timeout

    try:
        FileLock(str(path)).acquire(blocking=False).lock.release()
    except (Timeout, OSError):
        return True
    return False


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock; the system releases it when its holder dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=_WAIT)
    except Timeout:
        name = escape_line(path.name.removesuffix(".lock").lstrip("."))
        _log.warning("another process is preparing %s; waiting for it", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# Content hashes of files, cached until the size or times of a file change.


_CHUNK = 1 << 22


_SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file is visible in its times."""


class FileHashes:
    """Cache of file hashes in a folder, one small file for each path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, path: Path) -> str:
        """Return the hash of a file's content; raise DataError if it is unreadable."""
        try:
            before = _state(path)
            known = self._cached(path)
            if known.get("state") == before:
                return str(known["hash"])
            found = _hash_file(path)
            # a file that is being written may change without a change of its times
            if _state(path) == before and time.time_ns() - max(before[1:3]) > _SETTLED:
                self._store(path, before, found)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        return found

    def _cache_file(self, path: Path) -> Path:
        return self.folder / f"{sha256(os.fsencode(path)).hexdigest()[:24]}.json"

    def _cached(self, path: Path) -> dict[str, object]:
        try:
            known = remove_version(parse_json(self._cache_file(path).read_text(encoding="utf-8")), path)
        except (OSError, ValueError, TypeError):
            return {}
        return known if known.get("path") == str(path) else {}

    def _store(self, path: Path, state: list[int], found: str) -> None:
        place = self._cache_file(path)
        aside = place.with_suffix(f".{os.getpid()}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(
                json.dumps(add_version({"path": str(path), "state": state, "hash": found})), encoding="utf-8"
            )
            os.replace(aside, place)
        except OSError:
            aside.unlink(missing_ok=True)  # the cache only saves time


def _state(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _hash_file(path: Path) -> str:
    from xxhash import xxh3_128  # several GB/s; not cryptographic

    digest = xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# Stale caches in the folder of a data set: from earlier settings, other files and killed preparations.


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
