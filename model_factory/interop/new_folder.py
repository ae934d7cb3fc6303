"""A folder that appears at its place only when it is complete."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_factory.training.errors import FolderInUseError, WriteError
from model_factory.training.run.atomic_io import put_in_place


def check_is_new(output: Path) -> None:
    """Raise FolderInUseError unless a folder is missing or empty."""
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise FolderInUseError(f"{output} is not empty; give a folder that is not there yet")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `output`, renamed to it if the block succeeds, and removed if not.

    Raises FolderInUseError for an output that is not empty, WriteError where it cannot be written.
    """
    check_is_new(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        staging.chmod(0o755)
    except OSError as error:
        raise WriteError(f"{output} cannot be written: {error}") from error
    try:
        yield staging
        if output.is_dir():
            output.rmdir()
        put_in_place(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
