"""Files and folders that are on the disk whole, or not at all, also when the power fails."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from training.errors import TrainingError


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from model.checkpoint import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    sync(path.parent)


def open_own(path: Path, mode: Literal["a", "w"], errors: str = "strict") -> TextIO:
    """Open a text file that is a run folder's own, as `mode` says; what a link points at is somebody else's.

    Raises TrainingError where it is a link, OSError where the system refuses.
    """
    try:
        return open(path, mode, encoding="utf-8", errors=errors, opener=_unfollowed)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise TrainingError(f"{path} is a link, and a run folder's files are its own; remove the link") from error


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows lacks it, and links are rare there


def sync(path: Path) -> None:
    """Have the disk take a file's content, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def put_in_place(staging: Path, target: Path) -> None:
    """Give a finished folder its final name once all that is in it is on the disk; one that is there already stays."""
    if target.exists():
        shutil.rmtree(staging)
        return
    for path in staging.rglob("*"):
        sync(path)
    sync(staging)
    os.replace(staging, target)
    sync(target.parent)


@contextmanager
def explain_write_errors(what: str, path: Path) -> Iterator[None]:
    """Failures to write inside the block become a TrainingError that names the path; torch raises RuntimeErrors."""
    from safetensors import SafetensorError

    from model.checkpoint import CheckpointError

    try:
        yield
    except (OSError, SafetensorError, CheckpointError) as error:
        raise TrainingError(f"{path}: {what} cannot be written: {error}") from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise TrainingError(f"{path}: {what} cannot be written: {str(error).splitlines()[0]}") from error
