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
from tests.data_manager.text_configs import BYTES, notes, shared, text_config, texts

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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('id,text\n1,"six inch\n2,good\n3,good too\n', "a.csv:2: the quote that opens here is never closed"),
        ('id,text\n1,a\n"2","b\nc",\n"3\n","d\n', "a.csv:4: 3 values; the first line names 2 columns"),
        ('id,text\n1,"a\nb"\n"2\n","c ""d""\ne\n', "a.csv:5: the quote that opens here is never closed"),
        ('id,text\n1,"six inch\n2,"good"\n', "a.csv:2: text follows the closing quote of the value that begins here"),
        ("id,text\n1,a\rb\n", "a.csv:2: a carriage return"),
    ],
)
def test_csv_quotes_are_strict(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content.encode())
    with pytest.raises(DataError, match=re.escape(message)):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv"))


def test_csv_open_quote_is_no_line_to_skip(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"six" inch\n2,"good"\n3,5" tall\n')
    found = config(CsvDatasetConfig, tmp_path, "a.csv", on_invalid="skip")
    assert texts(found) == ["good", '5" tall']
    assert notes(found) == ["train: 1 skipped: invalid CSV (a.csv:2)"]
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,"b\n3,c\n')
    with pytest.raises(DataError, match=r"a\.csv:3: the quote that opens here"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv", on_invalid="skip"))


@pytest.mark.parametrize(
    ("content", "counted"),
    [
        ('id,text,label\n1,"bad,0\n2,good,1\n3,fine",0\n', ["a.csv:2"]),
        ('id,text,label\n1,"dear, sir\nand, madam",0\n', []),
        ('text\n"first\nsecond"\n', []),
    ],
)
def test_csv_value_that_holds_rows_is_noted(tmp_path, content, counted):
    (tmp_path / "a.csv").write_text(content)
    found = config(CsvDatasetConfig, tmp_path, "a.csv")
    assert len(texts(found)) == 1
    reason = "a quoted value that holds lines like those of rows; is a quote missing?"
    assert notes(found) == [f"train: 1 kept: {reason} ({place})" for place in counted]


def test_csv_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("1,a\n2,b\n")
    found = config(CsvDatasetConfig, tmp_path, "a.csv", column_names=["id", "text"])
    assert texts(found) == ["a", "b"]
    with pytest.raises(DataError, match=r"a\.csv:1: 2 values; column_names names 3 columns"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv", column_names=["id", "text", "label"]))
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    with pytest.raises(DataError, match=r"a\.csv:1: this line names the columns; remove column_names"):
        texts(found)
    with pytest.raises(ValidationError, match="column_names lacks 'text', which is read"):
        config(CsvDatasetConfig, tmp_path, "a.csv", column_names=["id", "body"])
    with pytest.raises(ValidationError, match="column_names names 'text' twice"):
        config(CsvDatasetConfig, tmp_path, "a.csv", column_names=["text", "text"])


def test_two_columns_of_one_name_are_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.csv").write_text("text,id,text\na,1,b\n")
    (tmp_path / "a.json").write_text('{"text": "a", "id": 1, "text": "b"}\n')
    (tmp_path / "b.json").write_text('[{"text": "a"},\n{"text": "a", "text": "b"}]')
    table = pyarrow.table([["a"], [1], ["b"]], names=["text", "id", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for kind, name, message in (
        (CsvDatasetConfig, "a.csv", "a.csv:1: there are two columns named 'text'"),
        (JsonDatasetConfig, "a.json", "a.json:1: there are two keys 'text' in one object"),
        (JsonDatasetConfig, "b.json", "b.json:2: there are two keys 'text' in one object"),
        (ParquetDatasetConfig, "a.parquet", "a.parquet: there are two columns named 'text'"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            texts(config(kind, tmp_path, name))
    (tmp_path / "a.csv").write_text("text,,\na,1,2\n")
    assert texts(config(CsvDatasetConfig, tmp_path, "a.csv")) == ["a"]


def test_nan_and_infinity_are_missing_values(tmp_path):
    import datasets

    (tmp_path / "a.json").write_text(
        '{"text": NaN, "n": 1}\n{"text": "c", "n": Infinity}\n{"text": "nan", "n": null}\n'
    )
    found = config(JsonDatasetConfig, tmp_path, "a.json")
    assert texts(found) == ["c", "nan"]
    assert notes(found) == ["train: 1 skipped: empty text (a.json:1)"]
    assert texts(config(JsonDatasetConfig, tmp_path, "a.json", template="{text}/{n}")) == ["/1", "c/", "nan/"]
    datasets.Dataset.from_dict({"text": [1.5, float("nan"), float("-inf")]}).to_parquet(str(tmp_path / "a.parquet"))
    found = config(ParquetDatasetConfig, tmp_path, "a.parquet")
    assert texts(found) == ["1.5"]
    assert notes(found) == ["train: 2 skipped: empty text (a.parquet:2, 3)"]


def test_measured_numbers_are_ascii(tmp_path):
    (tmp_path / "a.csv").write_text("text,y\na,1e3\nb, -.5\nc,1_000\nd,١٢\ne,１\nf,infinity\ng,0x1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:4: column 'y' holds '1_000'; a property must be a finite number"):
        texts(config(CsvDatasetConfig, tmp_path, "a.csv", measured=["y"]))
    found = config(CsvDatasetConfig, tmp_path, "a.csv", measured=["y"], on_invalid="skip")
    assert texts(found) == ["a", "b"]
    assert DatasetManager.load_dataset(found)["train"]["cond"][:] == [[1000.0], [-0.5]]
    assert notes(found) == ["train: 5 skipped: not a number (a.csv:4, 5, 6, 7, 8)"]


def test_pairs_with_an_empty_side_are_left_out(tmp_path):
    import datasets

    rows = [("a", "A"), ("b", ""), (" ", "C"), ("d", "D")]
    for side, index in (("en", 0), ("de", 1)):
        (tmp_path / f"a.{side}").write_text("".join(row[index] + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("en,de\n" + "".join(",".join(row) + "\n" for row in rows))
    write_json_lines(tmp_path / "a.json", [{"en": en, "de": de} for en, de in rows])
    datasets.Dataset.from_list([{"en": en, "de": de} for en, de in rows]).save_to_disk(str(tmp_path / "saved"))
    pair = PairColumns(source="en", target="de")
    for found, counted in (
        (text_config(tmp_path, {"train": {"source": "a.en", "target": "a.de"}}), "(a.en:2, 3)"),
        (config(CsvDatasetConfig, tmp_path, "a.csv", rows=None, pair=pair), "(a.csv:3, 4)"),
        (config(JsonDatasetConfig, tmp_path, "a.json", rows=None, pair=pair), "(a.json:2, 3)"),
        (disk(tmp_path, column=None, rows=None, pair=pair), "(saved train row:2, 3)"),
    ):
        assert texts(found) == [("a", "A"), ("d", "D")]
        assert notes(found) == [f"train: 2 skipped: empty text {counted}"]


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
    settings = {"rows": "whole", "column": "body", **more}
    return DiskDatasetConfig(name="tiny", path="saved", tokenizer=BYTES, global_config=shared(folder), **settings)


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
