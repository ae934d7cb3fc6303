"""What tells whether files have changed: their names, sizes and times, not their content."""

import os
from hashlib import sha256
from pathlib import Path

from data_manager.prepared_folder import STAMP


def fingerprint(folder: Path) -> dict[str, int | str]:
    """Number, bytes and hash of the names, sizes and times (ns) of the files below a folder (or of one file).

    What has been prepared from a corpus may lie inside it, and does not count; nor do files whose names begin with a
    dot, and links that lead nowhere.
    """
    digest = sha256()
    count = size = 0
    for path in _files(os.path.abspath(folder)):
        status = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        count, size = count + 1, size + status.st_size
    return {"files": count, "bytes": size, "hash": digest.hexdigest()[:16]}


def _files(place: str) -> list[str]:
    """Paths of all files, sorted."""
    if os.path.isfile(place):
        return [place]
    found: list[str] = []
    for root, folders, names in os.walk(place):
        if STAMP in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(root, name) for name in names if not name.startswith(".")]
        found += filter(os.path.exists, paths)
    return sorted(found)
