"""Atomic IO: files and folders that are on the disk completely or not at all, even after a power failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from model_factory.training.errors import TrainingError, WriteError


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    from model.checkpoint import atomic_replace

    with atomic_replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    sync(path.parent)


def open_without_links(path: Path, mode: Literal["a", "w"], errors: str = "strict") -> TextIO:
    """Open a text file of a run folder without following a link, which may point outside the folder.

    Raises TrainingError if it is a link, OSError if it cannot be opened.
    """
    try:
        return open(path, mode, encoding="utf-8", errors=errors, opener=_open_without_following)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise TrainingError(
            f"{path} is a link, and a run writes only inside its own folder; remove the link"
        ) from error


def _open_without_following(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows lacks it, and links are rare there


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def put_in_place(staging: Path, target: Path) -> None:
    """Sync a folder and rename it to `target`; discard it if `target` already exists."""
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
    """Convert write errors inside the block, RuntimeErrors of torch included, to a WriteError that names the path."""
    from safetensors import SafetensorError

    from model.checkpoint import CheckpointError

    try:
        yield
    except (OSError, SafetensorError, CheckpointError) as error:
        raise WriteError(f"{path}: {what} cannot be written: {error}; {_remedy(path)}") from error
    except RuntimeError as error:  # of torch; its message names only torch's code
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise WriteError(f"{path}: {what} cannot be written: a file was cut short; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    """Say how much space is left, and that earlier checkpoints are safe."""
    place = next((place for place in (path, *path.parents) if place.exists()), Path())
    free = shutil.disk_usage(place).free / 1e6
    return f"the disk has {free:,.0f} MB left; what was saved before is complete, and --resume continues from the last checkpoint"
