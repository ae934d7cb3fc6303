"""Public corpora next to the repository; a test that needs a missing one is skipped."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """Return the folder of a real corpus, such as `multi30k`; skip the calling test if it is missing."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"needs the corpus {name} in ../shared/data, next to the repository")
    return folder
