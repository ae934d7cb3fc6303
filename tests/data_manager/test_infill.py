"""Rows for holes of unknown length: prefix, suffix and middle, which together are the text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.tokenizers.base import Tokenizer
from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError

LINES = [f"line {number} of a short text" for number in range(40)]


def config(folder: Path, **keys: Any) -> DatasetConfig:
    (folder / "a.txt").write_text("\n".join(LINES))
    entry = {"name": "a", "source": "text", "data_files": {"train": str(folder / "a.txt")}, "documents": "line"}
    entry |= {"sequence_length": 40, "infill": {}} | keys
    place = {"corpus_dir": str(folder), "output_dir": str(folder / "out")}
    path = folder / "a.yml"
    path.write_text(dump({"global_config": place, "datasets": [{k: v for k, v in entry.items() if v is not None}]}))
    (found,) = read_experiment(path, will_train=False).config.datasets or ()
    return found


def rows(made: DatasetConfig) -> list[dict[str, list[int]]]:
    return [{name: list(value) for name, value in row.items()} for row in DatasetManager.load_dataset(made)["train"]]


def parts(row: dict[str, Sequence[int]], tokenizer: Tokenizer) -> tuple[str, str, str]:
    """Check the layout of a row, and return its prefix, suffix and middle."""
    ids, first = list(row["input_ids"]), list(row["response_mask"]).index(True)
    assert all(row["response_mask"][first:])
    given, response = ids[:first], ids[first:]
    bos = tokenizer.bos_token_id
    assert given[0] == given[-1] == bos
    middle = given.index(bos, 1)
    end = len(response) - 1
    assert response.index(tokenizer.eos_token_id) == end
    return tokenizer.decode(given[1:middle]), tokenizer.decode(given[middle + 1 : -1]), tokenizer.decode(response[:end])


@pytest.mark.parametrize("tokenizer", [{"type": "characters"}, {"type": "bytes"}, {"type": "bpe", "vocab_size": 280}])
def test_parts_of_a_row_are_its_text(tmp_path: Path, tokenizer: dict[str, Any]) -> None:
    made = config(tmp_path, tokenizer=tokenizer, infill={"copies": 3, "share": 0.5})
    known = DatasetManager.tokenizer(made)
    assert known is not None
    found = [parts(row, known) for row in rows(made)]
    assert [prefix + middle + suffix for prefix, suffix, middle in found] == [line for line in LINES for _ in range(3)]
    whole = sum(not prefix and not suffix for prefix, suffix, _ in found)
    assert 40 <= whole <= 80  # of 120
    assert len({part for part, *_ in found}) > 15
    assert any(prefix and suffix and not middle for prefix, suffix, middle in found)


def test_holes_are_a_function_of_seed_and_text(tmp_path: Path) -> None:
    first, again, other = (rows(config(tmp_path, infill={"seed": seed}, too_long=way)) for seed, way in HOLES)
    assert first == again
    assert first != other
    streamed = DatasetManager.load_dataset(config(tmp_path, streaming=True, tokenizer={"type": "bytes"}))["train"]
    stored = rows(config(tmp_path, tokenizer={"type": "bytes"}))
    assert [list(row["input_ids"]) for row in streamed] == [row["input_ids"] for row in stored]


HOLES = [(0, None), (0, "skip"), (1, None)]


def test_batches_have_one_length_whatever_rows_they_hold(tmp_path: Path) -> None:
    made = config(tmp_path)
    data = DatasetManager.load_dataset(made)["train"]
    collate = DatasetManager.collator(made, data)
    one, all_ = collate([data[0]]), collate(list(data))
    assert torch.equal(all_["input_ids"][:1], one["input_ids"])
    assert torch.equal(all_["response_mask"][:1], one["response_mask"])
    assert all_["response_mask"].dtype == torch.bool
    assert all_["input_ids"].shape == (40, 40)
    assert bool(all_["attention_mask"].all())
    for ids, mask, row in zip(all_["input_ids"], all_["response_mask"], data, strict=True):
        size = len(row["input_ids"])
        assert ids[:size].tolist() == list(row["input_ids"])
        assert set(ids[size:].tolist()) <= {2}
        assert bool(mask[size:].all())


def test_holes_of_a_table_are_those_of_its_texts(tmp_path: Path) -> None:
    lines = rows(config(tmp_path))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    made = config(tmp_path, source="json", documents=None, data_files={"train": str(tmp_path / "a.jsonl")})
    assert rows(made) == lines
    assert made.is_filled  # type: ignore[attr-defined]


def test_source_columns_count_the_middle(tmp_path: Path) -> None:
    made = config(tmp_path, tokenizer={"type": "bytes"})
    known = DatasetManager.tokenizer(made)
    prepared = DatasetManager.load_with_source(made, "train")
    assert known is not None
    assert prepared is not None
    for row in prepared.rows:
        prefix, suffix, middle = parts(row, known)
        assert row["input_text"] == prefix + middle + suffix
        assert row["input_size"][0] == len(middle)


def test_text_that_does_not_fit_is_refused_or_skipped(tmp_path: Path) -> None:
    with pytest.raises(
        Exception, match=r"a.txt:11: 27 tokens exceed sequence_length 26; .*set too_long: skip or too_long: cut$"
    ):
        rows(config(tmp_path, sequence_length=26))
    assert len(rows(config(tmp_path, sequence_length=26, too_long="skip"))) == 10


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rows": "packed"}, "a document with a hole is one row, so rows cannot be packed"),
        ({"fill": "hidden"}, "a row whose fill is hidden tells the length of its hole"),
        ({"infill": {"share": 1}}, "infill.share: must be less than 1; got 1"),
        ({"infill": {"copies": 0}}, "copies"),
        ({"infill": {"shares": 0.5}}, "did you mean 'share'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **keys)


def test_smiles_and_classes_have_no_holes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a part of a SMILES need not be one"):
        config(tmp_path, source="smiles", documents=None)
    with pytest.raises(ConfigError, match="a document with a class has no hole to fill"):
        config(tmp_path, source="csv", documents=None, label="kind")
