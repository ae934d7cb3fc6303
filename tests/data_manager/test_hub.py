"""Hub: data sets and tokenizers are downloaded once, found again offline, and missing ones fail at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.text import hub
from data_manager.text.table_types import HubDatasetConfig
from tests.data_manager.fake_hub import fake_hub
from tests.data_manager.text_configs import BYTES, shared, text_config

ROOT = Path(__file__).resolve().parents[2]
CARD = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]
---
"""
LINES = b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n'
WORDS = (
    b'{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": '
    b'{"type": "Whitespace"}, "post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": '
    b'{"one": 0, "two": 1, "three": 2}, "unk_token": "one"}}'
)
FILES = {
    "datasets/owner/lines": {"README.md": CARD, "train.jsonl": LINES, "test.jsonl": b'{"text": "four"}\n'},
    "owner/words": {
        "tokenizer.json": WORDS,
        "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
        "config.json": b'{"model_type": "gpt2"}',
    },
}
CODE = """
import sys
from tests.data_manager.text_configs import *
from data_manager.text.table_types import HubDatasetConfig
settings = {"repo": "owner/lines", "rows": "whole", "global_config": shared(Path(sys.argv[1])), "tokenizer": BYTES}
print(texts(HubDatasetConfig(name="a", **settings)), texts(HubDatasetConfig(name="a", **settings), "test"))
for part in ("train[:1]", "train[1:2]"):
    sliced = HubDatasetConfig(name="b", **settings, split={"part": part})
    print(texts(sliced, "part"))
if sys.argv[2] == "online":
    print(texts(HubDatasetConfig(name="c", **settings, split="train", streaming=True)))
settings["tokenizer"] = TokenizerConfig(type="hugging_face", name="owner/words")
print(texts(HubDatasetConfig(name="d", **settings)))
"""


def run(folder, mode, **environment):
    command = [sys.executable, "-c", CODE, str(folder), mode]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {
        **kept,
        "HF_HOME": str(folder / "hub"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **environment,
    }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_hub_download_is_found_offline(tmp_path):
    with fake_hub(FILES) as (address, asked):
        done = run(tmp_path, "online", HF_ENDPOINT=address)
        assert done.stdout.splitlines() == [
            "['one', 'two', 'three'] ['four']",
            "['one']",
            "['two']",
            "['one', 'two', 'three']",
            "['one', 'two', 'three']",
        ], done.stderr
        assert sum(line.endswith("GET datasets/owner/lines/resolve/main/train.jsonl") for line in asked) <= 1
    again = run(tmp_path, "offline", HF_ENDPOINT=address)
    assert again.stdout.splitlines() == [line for index, line in enumerate(done.stdout.splitlines()) if index != 3]


@pytest.fixture
def no_network(monkeypatch):
    """A hub on a port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    return address


def hub_config(folder, **more):
    settings = {"repo": "no-one/no-lines", "tokenizer": BYTES, **more}
    return HubDatasetConfig(name="tiny", global_config=shared(folder), **settings)


def test_hub_without_network_fails_at_once(tmp_path, no_network, monkeypatch):
    tried = []
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **more: tried.append(given))
    # what is left of a download that got no file
    (tmp_path / "hub" / "models--no-one--words" / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *given, **more: tried.append(given))
    with pytest.raises(DataError) as caught:
        DatasetManager.load_dataset(hub_config(tmp_path))
    assert str(caught.value) == (
        f"data set 'no-one/no-lines' is not in the cache, and {no_network} cannot be reached (Connection "
        "refused).\nSave it on a machine with a network (load_dataset(...).save_to_disk(folder)) and read it by source: disk."
    )
    (tmp_path / "a.txt").write_text("text")
    config = text_config(
        tmp_path, {"train": "a.txt"}, tokenizer=TokenizerConfig(type="hugging_face", name="no-one/words")
    )
    with pytest.raises(DataError, match=r"tokenizer 'no-one/words' is not in the cache.*\n.*give path"):
        DatasetManager.load_dataset(config)
    assert not tried


def test_hub_offline_by_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"cannot be reached .the environment sets HF_HUB_OFFLINE"):
        DatasetManager.load_dataset(hub_config(tmp_path))


def test_hub_reports_missing_data_set(tmp_path, monkeypatch):
    def get():
        raise FileNotFoundError("no such\n data set")

    monkeypatch.setattr(hub, "reason_offline", lambda: None)
    with pytest.raises(
        DataError, match=r"data set 'x' cannot be downloaded from .*: FileNotFoundError: no such data set\ndo this"
    ):
        hub.from_hub("data set 'x'", get, "do this", iter(()))


@pytest.mark.parametrize("repo", ["./lines", "/lines", "a/b/c", "lines.json", "~/lines", "data/train.txt"])
def test_hub_repo_rejects_paths(repo):
    with pytest.raises(ValidationError, match="must be a name on the hub"):
        HubDatasetConfig(name="x", repo=repo)


def test_hub_tokenizer_rejects_folder_of_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"a folder of that name exists, too; to use the folder, write path: \./words"):
        DatasetManager.load_dataset(
            text_config(tmp_path, {"train": "a.txt"}, tokenizer=TokenizerConfig(type="hugging_face", name="words"))
        )


def test_hub_stream_rejects_learned_tokenizer():
    with pytest.raises(ValidationError, match="a tokenizer of characters is learned from the whole text"):
        HubDatasetConfig(name="x", streaming=True)
    with pytest.raises(ValidationError, match="a stream cannot be sliced"):
        HubDatasetConfig(name="x", streaming=True, split="train[:9]", tokenizer=BYTES)
    with pytest.raises(ValidationError, match="splits divide a single split; name it"):
        HubDatasetConfig(name="x", splits={"train": 0.5, "test": 0.5})
