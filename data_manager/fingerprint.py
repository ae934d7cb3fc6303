"""Detect changed files by their names, sizes and modification times, without reading them."""

import os
from hashlib import sha256
from pathlib import Path

from data_manager.prepared_folder import STAMP


def fingerprint(folder: Path) -> dict[str, int | str]:
    """Return count, total bytes and a hash of names, sizes and times (ns) of the files below a folder, or of one file.

    Skips prepared data stored inside a corpus, files whose names begin with a dot, and broken links.
    """
    digest = sha256()
    count = size = 0
    for path in _list_files(os.path.abspath(folder)):
        status = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        count, size = count + 1, size + status.st_size
    return {"files": count, "bytes": size, "hash": digest.hexdigest()[:16]}


def _list_files(root_path: str) -> list[str]:
    """List the paths of all files, sorted."""
    if os.path.isfile(root_path):
        return [root_path]
    found: list[str] = []
    for root, folders, names in os.walk(root_path):
        if STAMP in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(root, name) for name in names if not name.startswith(".")]
        found += filter(os.path.exists, paths)
    return sorted(found)
