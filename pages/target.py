"""Where a page is to be written, looked at before the work that it tells of; no template is imported."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_LONGEST = 240
"""Bytes of a name, with room for that of a page which is being written."""


def check_target(path: str, usage_error: Callable[[str], NoReturn]) -> None:
    """End by `usage_error` where a page cannot lie at `path`."""
    target = Path(path)
    if os.path.isdir(path):
        usage_error(f"--html takes a file, and {path} is a folder: --html {target / 'page.html'}")
    if os.path.exists(path) and not os.path.isfile(path):
        usage_error(f"--html takes a file, and {path} is a device or a pipe; give a name such as page.html")
    if not os.path.isdir(target.parent):
        usage_error(f"--html {path}: there is no folder {target.parent}")
    if "\0" in path or len(os.fsencode(target.name)) > _LONGEST:
        usage_error(f"--html {path[:40]!r}...: no file can have this name")
