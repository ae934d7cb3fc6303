"""Errors are located in a user's own code, never in a library that the error only passed through."""

import importlib.util
from pathlib import Path

import pytest
from tqdm import tqdm

from data_manager.documents import Listed, Notes
from data_manager.errors import DataError
from model_factory.experiment.custom_code import describe_error


def test_error_through_a_progress_bar_has_no_place_of_a_library() -> None:
    with pytest.raises(DataError) as caught:
        list(tqdm(Listed([3], "here").read(Notes()), disable=True))  # type: ignore[list-item]
    assert "must be a text" in describe_error(caught.value)
    assert "tqdm" not in describe_error(caught.value)


def test_error_of_ours_that_custom_code_caused_is_located(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from data_manager.errors import DataError\n\n\ndef load():\n    raise DataError('no rows')\n")
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(DataError) as caught:
        module.load()
    assert describe_error(caught.value) == f"{path}:5, in load: DataError: no rows"
