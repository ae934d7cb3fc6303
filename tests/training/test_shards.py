"""Memory-mapped shards: the rows of the table they were written from, checked when they are opened."""

import json
import pickle
import shutil

import numpy as np
import pytest

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from model_factory.cli.data import main
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.errors import UnfitError
from model_factory.training.rows import HashedOrder
from tests.training.runs import bytes_of, experiment, seq2seq

LAYOUTS = {
    "packed": {"rows": "packed", "document_ids": True, "documents": "line"},
    "classes": {"source": "json", "label": "class", "sequence_length": None},
    "properties": {"source": "json", "measured": ["x", "y"], "sequence_length": None},
    "pairs": {},
}


def entry_of(folder, layout):
    """Write data of a layout and return their entry."""
    if layout == "pairs":
        return {**seq2seq(folder)["datasets"][0], "tokenizer": {"type": "characters"}}
    texts = [f"{'abcdefg ' * (number % 4)}{number}" for number in range(60)]
    (folder / "a.txt").write_text("\n".join(texts))
    rows = [{"text": text, "class": len(text) % 3, "x": 0.1, "y": len(text)} for text in texts]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"source": "text", "sequence_length": 20, "tokenizer": {"type": "characters"}, **LAYOUTS[layout]}
    file = str(folder / ("a.txt" if more["source"] == "text" else "a.jsonl"))
    return {"name": "rows", "data_files": {"train": file, "validation": file}, **more}


def written(folder, layout="packed", **more):
    """Write the shards of a data set and return its entry with the key `shards`."""
    entry = entry_of(folder, layout) | more
    path = folder / "data.json"
    path.write_text(json.dumps({"datasets": [entry], "global_config": {"output_dir": str(folder / "out")}}))
    assert main(["--config", str(path), "--write-shards", str(folder / "shards")]) == 0
    return entry | {"shards": str(folder / "shards"), "streaming": False, "shuffle_buffer": None}


def config_of(folder, entry):
    path = folder / "read.json"
    path.write_text(json.dumps({"datasets": [entry], "global_config": {"output_dir": str(folder / "out")}}))
    return parse_dataset_configs(path)[0]


def plain(row):
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_equal_prepared_rows(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("data_manager.rows.shards._SHARD", 300)
    monkeypatch.setattr("data_manager.rows.shards._BATCH", 7)
    entry = written(tmp_path, layout)
    assert len(list((tmp_path / "shards" / "0-train").glob("*_ids.npy"))) > 2
    table = DatasetManager.load_dataset(config_of(tmp_path, entry | {"shards": None}))["train"].with_format("numpy")
    for file in tmp_path.glob("a.*"):
        file.unlink()  # the text is not read
    rows = DatasetManager.load_dataset(config_of(tmp_path, entry))["train"]
    assert [plain(row) for row in rows] == [plain(row) for row in table]
    assert plain(rows[-1]) == plain(table[len(table) - 1])
    assert rows.column_names == table.column_names
    assert rows.head(9).to_list() == [plain(row) for row in table.select(range(9))]
    assert [plain(row) for row in pickle.loads(pickle.dumps(rows))] == [plain(row) for row in rows]
    assert rows.num_labels == (3 if layout == "classes" else None)
    with pytest.raises(IndexError):
        rows[len(table)]


def test_shards_of_stream_equal_those_of_its_table(tmp_path):
    entry = written(tmp_path, tokenizer={"type": "bytes"})
    (tmp_path / "shards").rename(tmp_path / "table")
    written(tmp_path, tokenizer={"type": "bytes"}, streaming=True)
    one, other = (json.loads((tmp_path / name / "shards.json").read_text()) for name in ("table", "shards"))
    assert one == other
    assert config_of(tmp_path, entry).shards == str(tmp_path / "shards")


def test_run_on_shards_resumes_bit_exact(tmp_path):
    path = experiment(tmp_path, datasets=[written(tmp_path)], max_steps=12, save_steps=5)
    (tmp_path / "a.txt").unlink()
    config, whole, run = read_experiment(path).config, tmp_path / "whole", tmp_path / "run"
    train(config, whole)
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-12")
    train(config, run, resume=True)
    assert bytes_of(run) == bytes_of(whole)
    manifest = tmp_path / "shards" / "shards.json"
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["hash"] = "shards of other rows"
    manifest.write_text(json.dumps(content))
    shutil.rmtree(run / "checkpoint-12")
    (run / "model.safetensors").unlink()
    with pytest.raises(UnfitError, match="split 'train' has as many rows as when the run began"):
        train(config, run, resume=True)


def damage(folder, what):
    """Damage a folder of shards."""
    file = folder / "0-train" / "00000.input_ids.npy"
    if what == "missing":
        file.unlink()
    elif what == "short":
        file.write_bytes(file.read_bytes()[:-4])
    elif what == "incomplete":
        (folder / "shards.json").unlink()
    elif what == "manifest":
        (folder / "shards.json").write_text('{"splits": {"train": {"rows": [-1]}}}')
    else:
        path = folder / "tokenizer" / "vocabulary.json"
        path.write_text(path.read_text().replace('"a"', '"z"'))


DAMAGES = {
    "missing": r"00000\.input_ids\.npy is missing; copy the folder again",
    "short": r"bytes, and was written with",
    "incomplete": r"has no shards\.json, so it is not complete; write it with --write-shards",
    "manifest": r"shards\.json cannot be read",
    "tokenizer": r"tokenizer is not the tokenizer of these shards",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_shards_are_reported(what, tmp_path):
    config = config_of(tmp_path, written(tmp_path))
    damage(tmp_path / "shards", what)
    with pytest.raises(DataError, match=DAMAGES[what]):
        DatasetManager.load_dataset(config)


def test_shards_of_other_settings_are_refused(tmp_path):
    entry = written(tmp_path) | {"sequence_length": 30, "document_ids": False}
    with pytest.raises(DataError, match=r"from other settings:\n  sequence_length: 30, and 20 in the shards\nrestore"):
        DatasetManager.load_dataset(config_of(tmp_path, entry))
    entry |= {"sequence_length": 20, "tokenizer": {"type": "bpe", "vocab_size": 300}}
    with pytest.raises(DataError, match=r"tokenizer: .*bpe.*, and .*characters.* in the shards"):
        DatasetManager.load_dataset(config_of(tmp_path, entry))


def test_write_shards_refuses_full_folder_and_two_data_sets(tmp_path, capsys):
    entry = written(tmp_path)
    command = ["--config", str(tmp_path / "data.json"), "--write-shards", str(tmp_path / "shards")]
    assert main(command) == 4
    assert "is not empty; give another folder" in capsys.readouterr().err
    two = [{**entry, "shards": None, "name": name} for name in "ab"]
    (tmp_path / "data.json").write_text(json.dumps({"datasets": two}))
    assert main([*command[:-1], str(tmp_path / "new")]) == 4
    assert "is for one data set, and the file has a, b; choose one: --only a" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000])
def test_hashed_order_is_a_permutation_of_each_epoch(count):
    order = HashedOrder(count, 5)
    epochs = [[order.index(position) for position in range(count * epoch, count * epoch + count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count == 1000:
        assert epochs[0] != epochs[1]
        for epoch in epochs:  # neighbours are as far apart as in a random order: a third of the rows on average
            assert np.abs(np.diff(epoch)).mean() == pytest.approx(count / 3, rel=0.1)
            assert abs(np.corrcoef(epoch, range(count))[0, 1]) < 0.1
    assert order.index(0) == epochs[0][0]
