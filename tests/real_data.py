"""Public corpora beside the repository; a test that wants one skips where it is absent."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of a real corpus, say `multi30k`; skips the calling test where it is not there."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"needs the corpus {name} in ../shared/data, beside the repository")
    return folder
