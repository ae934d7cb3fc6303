"""Content hashes of files, cached until the size or times of a file change."""

import json
import os
import time
from hashlib import sha256
from pathlib import Path

from data_manager.errors import DataError
from yaml_config.json_text import from_json
from yaml_config.schema_version import stamped, unstamped

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
            known = unstamped(from_json(self._cache_file(path).read_text(encoding="utf-8")), path)
        except (OSError, ValueError, TypeError):
            return {}
        return known if known.get("path") == str(path) else {}

    def _store(self, path: Path, state: list[int], found: str) -> None:
        place = self._cache_file(path)
        aside = place.with_suffix(f".{os.getpid()}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(stamped({"path": str(path), "state": state, "hash": found})), encoding="utf-8")
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
