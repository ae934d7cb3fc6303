"""Custom data sources: registration in one file, and use as a plugin."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.errors import DataError
from data_manager.registry import SOURCES, register_source
from data_manager.row_types import TokensConfig
from tests.data_manager.text_configs import BYTES, notes, shared, texts

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = '''
from typing import Annotated, Literal
from pydantic import Field
from data_manager.registry import register_source
from data_manager.text.types import TokensConfig

class RhymesConfig(TokensConfig):
    """Rhymes that are made up."""
    source: Literal["rhymes"] = "rhymes"
    count: Annotated[int, Field(gt=0)] = 3
    """Number of texts."""

@register_source("rhymes", config=RhymesConfig)
def load(config):
    return {"train": [f"roses are {n}" for n in range(config.count)], "test": ["violets are blue"]}
'''


@pytest.fixture
def register():
    """Register sources and undo it after the test."""
    before = dict(SOURCES._entries)
    yield register_source
    SOURCES._entries.clear()
    SOURCES._entries.update(before)


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_plugin_source_from_outside_the_package(tmp_path):
    (tmp_path / "my_rhymes.py").write_text(PLUGIN)
    (tmp_path / "x.yml").write_text(
        "datasets:\n  - {name: r, source: rhymes, count: 2, rows: whole, tokenizer: {type: bytes}}\n"
    )
    (tmp_path / "bad.yml").write_text("datasets:\n  - {name: r, source: rhymes, cuont: 2}\n")
    command = ["-m", "data_manager.data_manager", "--plugin", "my_rhymes"]
    done = run(tmp_path, *command, "--config", "x.yml", "--json")
    (report,) = json.loads(done.stdout)["datasets"]
    assert [split["examples"] for split in report["splits"]] == [["roses are 0", "roses are 1"], ["violets are blue"]]
    done = run(tmp_path, *command, "--config", "bad.yml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bad.yml:2:31: datasets.0.cuont: unknown key 'cuont'; did you mean 'count'?" in done.stderr
    assert "source: rhymes  " in run(tmp_path, *command, "--list").stdout
    done = run(tmp_path, str(ROOT / "parse_args.py"), "--plugin", "my_rhymes", "--config", "x.yml")
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(run(tmp_path, str(ROOT / "parse_args.py"), "--plugin", "my_rhymes", "--schema").stdout)
    sources = [entry["properties"]["source"]["const"] for entry in schema["properties"]["datasets"]["items"]["anyOf"]]
    assert "rhymes" in sources
    done = run(tmp_path, "-m", "data_manager.data_manager", "--plugin", "no_such", "--list")
    assert (done.returncode, done.stdout) == (2, "")


class Own(TokensConfig):
    source: str = "own"


def own(folder, **more):
    return Own(name="mine", global_config=shared(folder), **{"tokenizer": BYTES, "rows": "whole", **more})


@pytest.mark.parametrize("form", ["list", "function", "table"])
def test_source_may_return_list_function_or_table(tmp_path, register, form):
    import datasets

    forms = {
        "list": ["one", "two"],
        "function": lambda: iter(["one", "two"]),
        "table": datasets.Dataset.from_dict({"text": ["one", "two"], "id": [1, 2]}),
    }
    register("own", config=Own)(lambda config: {"train": forms[form]})
    assert texts(own(tmp_path)) == ["one", "two"]
    assert texts(own(tmp_path, streaming=True)) == ["one", "two"]
    learnt = own(tmp_path, tokenizer=TokenizerConfig())
    assert DatasetManager.tokenizer(learnt).characters == sorted(set("onetwo"))


def test_source_may_return_pairs(tmp_path, register):
    register("own", config=Own)(
        lambda config: {"train": [("one", "eins"), ("none", ""), (" ", "leer"), ("two", "zwei")]}
    )
    assert texts(own(tmp_path)) == [("one", "eins"), ("two", "zwei")]
    assert notes(own(tmp_path)) == ["train: 2 skipped: empty text (mine train:2, 3)"]


def test_source_result_is_checked(tmp_path, register):
    given = {}
    register("own", config=Own)(lambda config: given)
    with pytest.raises(DataError, match="source 'own' must return a dict of splits"):
        DatasetManager.load_dataset(own(tmp_path))
    given["train"] = ["one", 2]
    with pytest.raises(DataError, match="mine train:2: must be a text or a pair of texts; got int"):
        DatasetManager.load_dataset(own(tmp_path))


def test_source_of_text_needs_tokens_config(register):
    class Plain(DatasetConfig):
        source: str = "plain"

    register("plain", config=Plain)(lambda config: {"train": ["one"]})
    with pytest.raises(DataError, match=r"returned text, so its config must be a subclass of data_manager.row_types"):
        DatasetManager.load_dataset(Plain(name="mine"))


def test_source_rows_of_ids_are_passed_on(register):
    class Squares(DatasetConfig):
        source: str = "squares"
        count: int = 3

    @register("squares", config=Squares)
    def load_squares(config):
        import datasets

        return {"train": datasets.Dataset.from_dict({"input_ids": [[n, n * n] for n in range(config.count)]})}

    config = Squares(name="mine", count=2)
    data = DatasetManager.load_datasets([config])["mine"]["train"]
    (batch,) = DatasetManager.create_dataloader(data, config, batch_size=5)
    assert batch["input_ids"].tolist() == [[0, 0], [1, 1]]
    assert DatasetManager.tokenizer(config) is None
