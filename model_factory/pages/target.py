"""Check of the path of an output, made before the work starts; no template is imported."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_MAX_NAME = 240
"""Maximum bytes of a file name, which leaves some for the suffix of the temporary file."""


def check_target(
    path: str, usage_error: Callable[[str], NoReturn], option: str = "--html", example: str = "page.html"
) -> None:
    """Call `usage_error` where the file of an option cannot be written to `path`; `example` is a name for one."""
    target = Path(path)
    if os.path.isdir(path):
        usage_error(f"{option} takes a file, and {path} is a folder: {option} {target / example}")
    if os.path.exists(path) and not os.path.isfile(path):
        usage_error(f"{option} takes a file, and {path} is a device or a pipe; give a name such as {example}")
    if not os.path.isdir(target.parent):
        usage_error(f"{option} {path}: there is no folder {target.parent}")
    if "\0" in path or len(os.fsencode(target.name)) > _MAX_NAME:
        usage_error(f"{option} {path[:40]!r}...: this is not a valid file name")
