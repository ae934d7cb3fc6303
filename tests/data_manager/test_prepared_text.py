"""Prepared text is cached: no repeated work, no partial folders, equal for any number of processes."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from data_manager import cache, loading
from data_manager.cache import FileHashes, is_held
from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.rows import encode, prepare
from data_manager.rows.parallel import ordered_map
from tests.data_manager.text_configs import BYTES, text_config, texts
from tests.processes import results_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def encodings(monkeypatch):
    """A list that grows with each batch that is tokenised."""
    found = []
    whole = encode.encode_many
    monkeypatch.setattr(encode, "encode_many", lambda *given: found.append(1) or whole(*given))
    return found


def prepared_folders(folder):
    return sorted(path.name for path in (folder / "out" / "tiny").iterdir() if not path.name.startswith("."))


def test_prepared_text_is_not_tokenised_twice(tmp_path, encodings):
    (tmp_path / "a.txt").write_text("some text\n" * 100)
    config = text_config(tmp_path, {"train": "a.txt"})
    first = DatasetManager.load_dataset(config)["train"]
    assert len(encodings) == 1
    assert DatasetManager.load_dataset(config)["train"]["input_ids"][:] == first["input_ids"][:]
    os.utime(tmp_path / "a.txt", (0, 0))
    (tmp_path / "b.txt").write_bytes((tmp_path / "a.txt").read_bytes())
    DatasetManager.load_dataset(text_config(tmp_path, {"train": "b.txt"}))
    assert len(encodings) == 1
    for change in ({"sequence_length": 9}, {"rows": "packed"}, {"tokenizer": TokenizerConfig()}):
        DatasetManager.load_dataset(text_config(tmp_path, {"train": "a.txt"}, **change))
    assert len(encodings) == 4
    (tmp_path / "a.txt").write_text("more text\n" * 100)
    assert texts(config)[0].startswith("more")
    assert len(encodings) == 5


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_tokenizer_is_learned_once(tmp_path, monkeypatch, kind):
    (tmp_path / "a.txt").write_text("the theme of the thesis\n" * 50)
    settings = TokenizerConfig(type=kind, vocab_size=270 if kind == "bpe" else None)
    config = text_config(tmp_path, {"train": "a.txt"}, tokenizer=settings)
    DatasetManager.load_dataset(config)
    size = DatasetManager.tokenizer(config).vocab_size
    monkeypatch.setattr("data_manager.tokenizers.factory._learn", None)
    DatasetManager.load_dataset(config)
    assert DatasetManager.tokenizer(config).vocab_size == size
    assert sum(name.startswith("tokenizer-") for name in prepared_folders(tmp_path)) == 1


def test_file_hashes_are_cached_until_a_file_changes(tmp_path, monkeypatch):
    hashes, path = FileHashes(tmp_path / "hashes"), tmp_path / "a.txt"
    path.write_text("a")
    monkeypatch.setattr("data_manager.cache._SETTLED", 10**18)
    assert hashes(path) == hashes(path)
    assert not (tmp_path / "hashes").exists()  # too fresh for its times to tell
    monkeypatch.setattr("data_manager.cache._SETTLED", -1)
    first = hashes(path)
    monkeypatch.setattr("data_manager.cache._hash_file", lambda path: "other")
    assert hashes(path) == first
    time.sleep(0.02)
    path.write_text("b")
    assert hashes(path) == "other"
    with pytest.raises(DataError, match=r"none\.txt cannot be read: No such file"):
        hashes(tmp_path / "none.txt")


@pytest.mark.parametrize("harm", ["truncated", "no stamp", "other bytes"])
def test_corrupt_prepared_folder_is_created_again(tmp_path, harm, caplog):
    (tmp_path / "a.txt").write_text("text\n" * 99)
    config = text_config(tmp_path, {"train": "a.txt"})
    wanted = texts(config)
    folder = DatasetManager.preparation(config)["train"].folder
    rows = folder / "rows.arrow"
    if harm == "truncated":
        rows.write_bytes(rows.read_bytes()[:-40])
    elif harm == "no stamp":
        (folder / "inputs.json").unlink()
    else:
        rows.write_bytes(b"x" * rows.stat().st_size)
    assert texts(config) == wanted
    assert str(folder) in caplog.text


def test_interrupted_preparation_leaves_no_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text\n" * 99)
    config = text_config(tmp_path, {"train": "a.txt"})

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DatasetManager.load_dataset(config)
    assert prepared_folders(tmp_path) == []
    assert "".join(texts(config)) == "text\n" * 99


def test_num_proc_does_not_change_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 500)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"line {number} of {name}\n" for number in range(300)))
    found = []
    for count in (1, 2, 5):  # more processes than files
        config = text_config(
            tmp_path / f"{count}", {"train": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]}, num_proc=count,
            documents="line", rows="packed", sequence_length=64,
        )  # fmt: skip
        found.append(DatasetManager.load_dataset(config)["train"]["input_ids"][:])
    assert found[0] == found[1] == found[2]


def test_dead_worker_process_is_reported():
    with pytest.raises(DataError, match=r"tiny: a worker process died .*num_proc"):
        list(ordered_map(os._exit, [1, 2, 3], 2, "tiny"))


def test_ordered_map_is_ordered_and_bounded():
    asked = []

    def items():
        for number in range(50):
            asked.append(number)
            yield number

    found = ordered_map(abs, items(), 2)
    assert next(found) == (0, 0)
    assert len(asked) <= 6
    assert list(found) == [(number, number) for number in range(1, 50)]


def _prepare(folder, start, results):
    start.wait()
    config = text_config(folder, {"train": "a.txt"}, tokenizer=TokenizerConfig(type="bpe", vocab_size=300))
    data = DatasetManager.load_dataset(config)["train"]
    results.put((len(data), sum(map(len, data["input_ids"][:]))))


def test_concurrent_preparation_of_the_same_data(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"this is line {number}\n" for number in range(20_000)))
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_prepare, args=(tmp_path, start, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    found = results_of(workers, results)
    for worker in workers:
        worker.join()
    assert found[0] == found[1] == found[2]
    assert len(prepared_folders(tmp_path)) == 2


def test_preparation_after_sigkill_succeeds(tmp_path):
    (tmp_path / "a.txt").write_text("text\n" * 99)
    code = (
        "import os, sys; from data_manager.rows import encode as encoding; from tests.data_manager.text_configs import *;"
        "encoding.encode_many = lambda *_: os._exit(9);"
        "DatasetManager.load_dataset(text_config(Path(sys.argv[1]), {'train': 'a.txt'}))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == 9
    assert [name for name in os.listdir(tmp_path / "out" / "tiny") if name.endswith(".partial")]
    assert "".join(texts(text_config(tmp_path, {"train": "a.txt"}))) == "text\n" * 99
    assert not [name for name in os.listdir(tmp_path / "out" / "tiny") if name.endswith(".partial")]


def test_workers_exit_and_unlock_after_sigkill_of_parent(tmp_path):
    (tmp_path / "a.txt").write_text("text\n" * 99)
    code = (
        "import os, signal, sys; from data_manager.rows import encode as encoding; from tests.data_manager.text_configs import *;"
        "encoding.encode_many = lambda *_: os.kill(os.getppid(), 9) or signal.pause();"
        "DatasetManager.load_dataset(text_config(Path(sys.argv[1]), {'train': 'a.txt'}, num_proc=2))"
    )
    # a process that lived on would keep the pipe of its output open
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -9
    (lock,) = (tmp_path / "out" / "tiny").glob(".train-*.lock")
    assert not is_held(lock)


def test_unwritable_output_folder_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(DataError, match=r"cannot be written to .* set global_config\.output_dir"):
        texts(text_config(tmp_path, {"train": "a.txt"}))


def test_preparation_memory_is_constant(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 1 << 16)
    peaks = []
    monkeypatch.setattr(cache, "_CHUNK", 1 << 16)
    for size in (1000, 10_000, 100_000):  # the first pays for what is imported
        path = tmp_path / f"{size}.txt"
        path.write_text("".join(f"this is line {number % 1000}\n" for number in range(size)))
        config = text_config(tmp_path, {"train": path.name}, rows="packed", tokenizer=TokenizerConfig())
        tracemalloc.start()
        DatasetManager.load_dataset(config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1], peaks


def test_skipped_lines_are_logged_and_stored(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    config = text_config(tmp_path, {"train": "a.txt"}, documents="line")
    message = f"tiny: train: 1 skipped: empty line ({tmp_path}/a.txt:2)"
    for _ in range(2):  # made, and read from disk as by another process
        caplog.clear()
        loading.LOADED.clear()
        with caplog.at_level(logging.WARNING):
            DatasetManager.load_dataset(config)
            DatasetManager.load_dataset(config)
        assert caplog.text.count(message) == 1
    found = DatasetManager.preparation(config)["train"]
    assert (found.documents, found.tokens) == (2, 8)
    assert json.loads((found.folder / "counts.json").read_text()) == {
        "schema_version": 1,
        "documents": 2,
        "rows": 2,
        "tokens": 8,
    }


@pytest.mark.parametrize("split", ["train/clean", "..", "a b", "ü"])
def test_split_names_become_safe_folder_names(tmp_path, split):
    (tmp_path / "a.txt").write_text("text")
    assert texts(text_config(tmp_path, {split: "a.txt"}), split) == ["text"]


def test_split_without_documents_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError) as caught:
        texts(text_config(tmp_path, {"train": "a.txt"}, documents="line"))
    assert str(caught.value) == (
        f"data set 'tiny': split 'train' has no documents\n  train: 2 skipped: empty line ({tmp_path}/a.txt:1, 2)"
    )


def test_identity_of_a_custom_tokenizer():
    class Own:
        vocab_size = 3

    assert prepare.tokenizer_identity(Own()) == "Own 3"
    assert BYTES.type == "bytes"
