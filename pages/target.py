"""Where a page is to be written, looked at before the work that it tells of; no template is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def check_target(path: str, usage_error: Callable[[str], NoReturn]) -> None:
    """End by `usage_error` where a page cannot lie at `path`."""
    target = Path(path)
    if target.is_dir():
        usage_error(f"--html takes a file, and {path} is a folder: --html {target / 'page.html'}")
    if not target.parent.is_dir():
        usage_error(f"--html {path}: there is no folder {target.parent}")
