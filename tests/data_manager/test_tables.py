"""Tables: JSON, CSV, Parquet and folders of `datasets`, and messages about invalid rows."""

import json
import re

import pytest
from pydantic import ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.text.table_types import (
    CsvDatasetConfig,
    DiskDatasetConfig,
    JsonDatasetConfig,
    PairColumns,
    ParquetDatasetConfig,
)
from data_manager.text.template import parse_template
from tests.data_manager.text_configs import BYTES, notes, shared, texts

ROWS = [{"id": 1, "title": "A", "body": "first, one\nmore"}, {"id": 2, "title": "B", "body": "zwö"}]


def config(kind, folder, file, **more):
    settings = {"tokenizer": BYTES, "rows": "whole", "global_config": shared(folder), **more}
    return kind(name="tiny", data_files={"train": file}, **settings)


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_templates():
    template = parse_template("{{{a.b}}} - {c}")
    assert template.columns == ["a", "c"]
    assert template.fill({"a": {"b": "x"}, "c": 3}) == "{x} - 3"
    assert template.fill({"a": {"b": None}, "c": ""}) is None
    for text in ("{a", "a}", "{}", "{ }", "none"):
        with pytest.raises(ValidationError, match=r"brace|column"):
            JsonDatasetConfig(name="x", data_files={"train": "a"}, template=text)


def test_only_one_text_setting():
    with pytest.raises(ValidationError, match="column and template both make the text"):
        JsonDatasetConfig(name="x", data_files={"train": "a"}, column="a", template="{a}")


@pytest.mark.parametrize("form", ["lines", "array", "indented"])
def test_json(tmp_path, form):
    path = tmp_path / "a.json"
    write_json_lines(path, ROWS) if form == "lines" else path.write_text(
        json.dumps(ROWS, indent=2 if form == "indented" else None)
    )
    found = config(JsonDatasetConfig, tmp_path, "a.json", template="{title}: {body}")
    assert texts(found) == ["A: first, one\nmore", "B: zwö"]
    with pytest.raises(DataError, match=r"a\.json:\d: there is no column 'text'; columns: id, title, body"):
        texts(config(JsonDatasetConfig, tmp_path, "a.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "a.json:2: not a JSON object on one line: Expecting value, column 10"),
        ('{"text": "a"}\n["text"]\n', "a.json:2: must be a JSON object; got list"),
        ('{"text": ["a"]}\n', "a.json:1: column 'text' holds list, not text"),
        ('[{"text": "a"},\n{"text": "b"}', "a.json:2: the array is not closed"),
        ('[{"text": "a"}\n{"text": "b"}]', "a.json:2: expected ',', found '{'"),
        ('[{"text": "a"},\n3]', "a.json:2: must be a JSON object; got int"),
        ('[]', "split 'train' has no documents"),
        ("  \n", "split 'train' has no documents"),
    ],
)  # fmt: skip
def test_broken_json(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        texts(config(JsonDatasetConfig, tmp_path, "a.json"))


def test_skipped_rows_are_counted(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a"}\n{"text": null}\n{\n{"txt": "b"}\n{"text": 3}\n{"text": {}}\n')
    found = config(JsonDatasetConfig, tmp_path, "a.json", on_invalid="skip")
    assert texts(found) == ["a", "3"]
    assert notes(found) == [
        "train: 1 skipped: empty text (a.json:2)",
        "train: 1 skipped: invalid JSON (a.json:3)",
        "train: 1 skipped: a column is missing (a.json:4)",
        "train: 1 skipped: not text (a.json:6)",
    ]


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_text('id;title;body\r\n1;A;"first\nmore; ""so"""\r\n2;B;\r\n3;C;x\r\n')
    found = config(CsvDatasetConfig, tmp_path, "a.csv", delimiter=";", column="body")
    assert texts(found) == ['first\nmore; "so"', "x"]
    assert notes(found) == ["train: 1 skipped: empty text (a.csv:4)"]
    with pytest.raises(DataError, match=r"a\.csv:1: there is no column 'text'; columns: id, title, body"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv", delimiter=";"))
    with pytest.raises(DataError, match=r"columns: id;title;body; is ',' the delimiter\?"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv", column="body"))


def test_csv_line_with_too_few_values(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,a\n2\n3,c\n")
    with pytest.raises(DataError, match=r"a\.csv:3: 1 values; the first line names 2 columns"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv"))
    assert texts(config(CsvDatasetConfig, tmp_path, "a.csv", on_invalid="skip")) == ["a", "c"]


def test_parquet(tmp_path):
    import datasets

    nested = [row | {"both": {"en": row["title"], "de": row["body"]}} for row in ROWS]
    datasets.Dataset.from_list(nested).to_parquet(str(tmp_path / "a.parquet"))
    found = config(
        ParquetDatasetConfig,
        tmp_path,
        "a.parquet",
        rows=None,
        pair=PairColumns(source="both.en", target="{id} {both.de}"),
    )
    assert texts(found) == [("A", "1 first, one\nmore"), ("B", "2 zwö")]
    with pytest.raises(DataError, match=r"a\.parquet: there is no column 'text'; columns: id, title, body, both"):
        texts(config(ParquetDatasetConfig, tmp_path, "a.parquet"))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        texts(config(ParquetDatasetConfig, tmp_path, "b.parquet"))


def disk(folder, **more):
    return DiskDatasetConfig(
        name="tiny", path="saved", tokenizer=BYTES, rows="whole", column="body", global_config=shared(folder), **more
    )


def test_folders_of_datasets(tmp_path):
    import datasets

    with pytest.raises(DataError, match=r"the folder 'saved' is not there; looked for"):
        texts(disk(tmp_path))
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(tmp_path / "saved"))
    for _ in range(2):
        assert texts(disk(tmp_path)) == ["first, one\nmore", "zwö"]
    assert len(list((tmp_path / "out" / "tiny").glob("train-*"))) == 1
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(tmp_path / "tiny" / "saved"))
    found = DatasetManager.load_dataset(disk(tmp_path))
    assert {split: len(data) for split, data in found.items()} == {"train": 2, "test": 1}
    with pytest.raises(DataError, match="splits divide a single split; it has train, test"):
        texts(disk(tmp_path, splits={"train": 0.5, "test": 0.5}))


def test_folder_that_is_not_a_data_set(tmp_path):
    (tmp_path / "saved").mkdir()
    with pytest.raises(DataError, match="cannot be read as a folder of save_to_disk"):
        texts(disk(tmp_path))


def test_folder_with_a_missing_file(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="cannot be read as a folder of save_to_disk"):
        texts(disk(tmp_path))
