"""What tells whether files have changed: their names, sizes and times, not their content."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path


def fingerprint(folder: Path, leave_out: Sequence[Path] = ()) -> dict[str, int | str]:
    """Number, bytes and hash of the names, sizes and times (ns) of the files below a folder (or of one file).

    Folders in `leave_out` are not entered: what is prepared from a corpus may lie inside it.
    """
    outside = {os.path.abspath(path) for path in leave_out}
    digest = sha256()
    count = size = 0
    for path in _files(os.path.abspath(folder), outside):
        status = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        count, size = count + 1, size + status.st_size
    return {"files": count, "bytes": size, "hash": digest.hexdigest()[:16]}


def _files(place: str, outside: set[str]) -> list[str]:
    """Paths of all files, sorted; links that lead nowhere are left out."""
    if os.path.isfile(place):
        return [place]
    found = []
    for root, folders, names in os.walk(place):
        folders[:] = [name for name in folders if os.path.join(root, name) not in outside]
        found += [path for path in (os.path.join(root, name) for name in names) if os.path.exists(path)]
    return sorted(found)
