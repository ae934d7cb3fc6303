"""Class labels: a column of classes becomes `labels` for every kind of table."""

import json
import re

import datasets
import pytest
from pydantic import ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.report import describe
from data_manager.text.table_types import CsvDatasetConfig, DiskDatasetConfig, JsonDatasetConfig
from model_factory.cli.data import report_text
from tests.data_manager.text_configs import BYTES, notes, shared

MOODS = [("so glad", "joy"), ("grim", "woe"), ("merry day", "joy")]


def config(folder, kind=CsvDatasetConfig, **more):
    settings = {"tokenizer": BYTES, "global_config": shared(folder), "label": "mood", **more}
    files = {} if kind is DiskDatasetConfig else {"data_files": {"train": "a.csv"}}
    return kind(name="moods", **files, **settings)


def write(folder, rows=MOODS):
    (folder / "a.csv").write_text("text,mood\n" + "".join(f"{text},{mood}\n" for text, mood in rows))


def labels(found):
    return list(DatasetManager.load_dataset(found)["train"]["labels"])


def test_class_names_become_labels_of_a_batch(tmp_path):
    write(tmp_path)
    found = config(tmp_path, classes=["woe", "joy"])
    assert labels(found) == [1, 0, 1]
    data = DatasetManager.load_dataset(found)["train"]
    batch = next(iter(DatasetManager.create_dataloader(data, found, batch_size=3)))
    assert batch["labels"].tolist() == [1, 0, 1]
    assert batch["input_ids"].shape == (3, len("merry day") + 2)
    assert "classes: woe 1, joy 2" in report_text(describe(found, {"train": data}))


def test_changed_class_names_are_prepared_again(tmp_path):
    write(tmp_path)
    assert labels(config(tmp_path, classes=["woe", "joy"])) == [1, 0, 1]
    assert labels(config(tmp_path, classes=["joy", "woe"])) == [0, 1, 0]


def test_integer_classes_need_no_names(tmp_path):
    write(tmp_path, [("a", 2), ("b", 0)])
    assert labels(config(tmp_path)) == [2, 0]


def test_skipped_rows_lose_their_class_too(tmp_path):
    write(tmp_path, [("much too long a text", 1), ("b", 0), ("c", 2)])
    found = config(tmp_path, sequence_length=5, too_long="skip")
    assert labels(found) == [0, 2]


def test_classes_of_streams_and_tables_on_disk(tmp_path):
    write(tmp_path)
    stream = DatasetManager.load_dataset(config(tmp_path, classes=["woe", "joy"], streaming=True))["train"]
    assert [int(row["labels"]) for row in stream] == [1, 0, 1]
    table = datasets.Dataset.from_dict({"text": [text for text, _ in MOODS], "mood": [1, 0, 1]})
    table.save_to_disk(str(tmp_path / "saved"))
    assert labels(config(tmp_path, DiskDatasetConfig, path="saved")) == [1, 0, 1]


def test_invalid_class_names_the_row(tmp_path):
    write(tmp_path, [*MOODS, ("hm", "meh")])
    with pytest.raises(DataError, match=r"a\.csv:5: column 'mood' holds 'meh'; the classes are woe, joy"):
        labels(config(tmp_path, classes=["woe", "joy"]))
    with pytest.raises(DataError, match=r"a\.csv:2: column 'mood' holds 'joy'; a class is a whole number from 0"):
        labels(config(tmp_path))
    skipping = config(tmp_path, classes=["woe", "joy"], on_invalid="skip")
    assert labels(skipping) == [1, 0, 1]
    assert any("1 skipped: invalid class" in line for line in notes(skipping))


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ([1.0, 0.0], None, [1, 0]),
        ([True, False], None, [1, 0]),
        ([True, False], ["true", "false"], [0, 1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([1.0, 0.0], ["1", "0"], [0, 1]),
        ([0.5, 1.0], ["0.5", "1.0"], [0, 1]),
    ],
)
def test_classes_of_floats_and_bools(tmp_path, values, names, expected):
    rows = [json.dumps({"text": "a", "mood": value}) + "\n" for value in values]
    (tmp_path / "a.csv").write_text("".join(rows))
    assert labels(config(tmp_path, JsonDatasetConfig, classes=names)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "holds 0.5; a class is a whole number from 0, or name all classes as text"),
        ("-1", 'in the order of their numbers: `classes: ["-1", ...]`'),
        ("null", "column 'mood' is empty; a row needs a class; on_invalid: skip leaves it out"),
        ("NaN", "column 'mood' is empty"),
    ],
)
def test_invalid_class_gets_a_remedy(tmp_path, value, message):
    (tmp_path / "a.csv").write_text(f'{{"text": "a", "mood": {value}}}\n')
    with pytest.raises(DataError, match=re.escape(message)):
        labels(config(tmp_path, JsonDatasetConfig))


def test_missing_class_column_is_an_error(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=r"a\.csv:1: there is no column 'feeling'; columns: text, mood"):
        labels(config(tmp_path, label="feeling"))
    (tmp_path / "a.csv").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=r"a\.csv:1: there is no column 'mood'; columns: text"):
        labels(config(tmp_path, JsonDatasetConfig))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rows": "packed"}, "a document with a class is one row"),
        ({"pair": {"source": "a", "target": "b"}}, "a pair cannot have a class"),
        ({"label": None, "classes": ["a", "b"]}, "classes names the values of the column"),
        ({"classes": ["a", "a"]}, "names a class twice"),
    ],
)
def test_conflicting_class_settings(tmp_path, more, words):
    with pytest.raises(ValidationError, match=words):
        config(tmp_path, **more)
