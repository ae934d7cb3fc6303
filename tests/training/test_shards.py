"""Memory-mapped shards: the rows of the table they were written from, checked when they are opened."""

import json
import pickle
import shutil
import signal
from hashlib import sha256

import numpy as np
import pytest
import torch

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.rows.shards import MappedRows, SplitWriter, split_folder
from model_factory.cli.data import main
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.errors import UnfitError
from model_factory.training.row_order import Buckets, HashedOrder
from model_factory.training.run.checkpoints import list_checkpoint_steps
from tests.training.runs import bytes_of, experiment, losses, seq2seq, start, wait_for
from tests.training.runs import train as start_training

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


def test_ids_take_two_bytes_up_to_a_vocabulary_of_65536(tmp_path):
    for size, kind in ((65_536, "<u2"), (65_537, "<i4")):
        writer = SplitWriter(tmp_path / str(size), ["input_ids"], size)
        writer.add({"input_ids": np.array([0, 65_535, 7], np.int32)}, {"input_ids": np.array([2, 1])})
        record = writer.close()
        assert record["types"] == {"00000.input_ids.npy": kind, "00000.input_ids.offsets.npy": "<i8"}
        raw = (tmp_path / str(size) / "00000.input_ids.npy").read_bytes()
        assert np.frombuffer(raw[-3 * np.dtype(kind).itemsize :], kind).tolist() == [0, 65_535, 7]
        assert sha256(raw).hexdigest() == record["sha256"]["00000.input_ids.npy"]
        rows = MappedRows(tmp_path / str(size), record)
        assert [rows[index]["input_ids"].dtype for index in range(2)] == [np.int32] * 2
        assert [rows[index]["input_ids"].tolist() for index in range(2)] == [[0, 65_535], [7]]
        assert record["hash"] == "shards fb795e501ac148d0abd01d7f1b43bc95"  # of ids of 4 bytes, as before


@pytest.mark.parametrize("wrong", [-1, 99])
def test_ids_outside_the_vocabulary_are_not_written(wrong, tmp_path):
    writer = SplitWriter(tmp_path / "0-train", ["input_ids"], 99)
    writer.add({"input_ids": np.array([1, wrong, 98], np.int32)}, {"input_ids": np.array([3])})
    with pytest.raises(DataError, match=f"0-train: input_ids has the id {wrong}, and the tokenizer has 99 ids"):
        writer.close()


def test_shards_of_an_earlier_version_are_read(tmp_path):
    config = config_of(tmp_path, written(tmp_path))
    before = [plain(row) for row in DatasetManager.load_dataset(config)["train"]]
    path = tmp_path / "shards" / "shards.json"
    content = json.loads(path.read_text())
    for record in content["splits"].values():
        del record["types"], record["sha256"]
    path.write_text(json.dumps(content))
    for file in path.parent.rglob("*.input_ids.npy"):
        np.save(file, np.load(file).astype(np.int32))
    for number, record in enumerate(content["splits"].values()):
        folder = split_folder(path.parent, number, list(content["splits"])[number])
        record["files"] = {name: (folder / name).stat().st_size for name in record["files"]}
    path.write_text(json.dumps(content))
    rows = DatasetManager.load_dataset(config)["train"]
    assert [plain(row) for row in rows] == before
    assert main(["--config", str(tmp_path / "read.json"), "--check-shards"]) == 4


@pytest.mark.parametrize("layout", ["packed", "pairs"])
def test_lengths_of_some_rows_equal_those_of_all(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("data_manager.rows.shards._SHARD", 300)
    monkeypatch.setattr("data_manager.rows.shards._BATCH", 7)
    rows = DatasetManager.load_dataset(config_of(tmp_path, written(tmp_path, layout)))["train"]
    lengths = sum(rows.row_lengths().values())
    some = np.array([len(rows) - 1, 0, 11, 3, 12, 12])
    assert rows.lengths_at(some).tolist() == lengths[some].tolist()
    monkeypatch.setattr("model_factory.training.row_order.MANY", 9)
    buckets = Buckets.of(rows, 2, 0)
    assert buckets.lengths[torch.from_numpy(some)].tolist() == lengths[some].tolist()


def test_content_of_shards_is_checked_by_its_hashes(tmp_path, capsys):
    entry = written(tmp_path)
    config_of(tmp_path, entry)
    command = ["--config", str(tmp_path / "read.json"), "--check-shards"]
    assert main(command) == 0
    assert "rows: 8 files of shards, " in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"]["rows"]["files"] == 8
    file = tmp_path / "shards" / "1-validation" / "00000.input_ids.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "1 of 8 files have another content than when they were written:" in said
    assert f"{file}\ncopy them again" in said
    assert main(["--config", str(tmp_path / "data.json"), "--check-shards"]) == 4
    assert "no data set has the key shards" in capsys.readouterr().err


def test_run_on_shards_resumes_bit_exact_after_sigkill(tmp_path):
    entry = written(tmp_path)
    path = experiment(tmp_path, datasets=[entry], max_steps=12, save_steps=3, dataloader_num_workers=1)
    assert start_training("--config", path, "--output", tmp_path / "whole") == 0
    run = tmp_path / "run"
    process = start("--config", path, "--output", run)
    wait_for(lambda: list_checkpoint_steps(run) or not process.is_alive())
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (run / "model.safetensors").exists()
    assert start_training("--config", path, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(tmp_path / "whole")
    assert losses(run) == losses(tmp_path / "whole")


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
    elif what in ("type", "byte order", "rows", "offsets"):
        if what == "rows":
            file = file.with_name("00000.input_ids.offsets.npy")
        if what == "offsets":
            file = file.with_name("00000.input_ids.offsets.npy")
        values, size = np.load(file), file.stat().st_size
        changed = {
            "type": lambda: values.view("<i2"),
            "byte order": lambda: values.astype(">u2"),
            "rows": lambda: np.append(values[:-2], values[-1]),
            "offsets": lambda: np.append(values[:-1], values[-1] + 1),
        }
        np.save(file, changed[what]())
        if what == "rows":  # as long as before
            file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        assert file.stat().st_size == size
    else:
        path = folder / "tokenizer" / "vocabulary.json"
        path.write_text(path.read_text().replace('"a"', '"z"'))


DAMAGES = {
    "missing": r"00000\.input_ids\.npy is missing; copy the folder again",
    "short": r"bytes, and was written with",
    "incomplete": r"has no shards\.json, so it is not complete; write it with --write-shards",
    "manifest": r"shards\.json cannot be read",
    "tokenizer": r"tokenizer is not the tokenizer of these shards",
    "type": r"00000\.input_ids\.npy has values of type <i2, and was written with <u2; copy the folder again",
    "byte order": r"00000\.input_ids\.npy has values of type >u2, and was written with <u2; copy the folder again",
    "rows": r"00000\.input_ids\.offsets\.npy has \d+ rows, and was written with \d+; copy the folder again",
    "offsets": r"offsets\.npy ends at value [\d,]+, and the column has [\d,]+ values; copy the folder again",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_shards_are_reported(what, tmp_path):
    config = config_of(tmp_path, written(tmp_path))
    damage(tmp_path / "shards", what)
    with pytest.raises(DataError, match=DAMAGES[what]):
        DatasetManager.load_dataset(config)["train"][0]


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
