"""Cached Hugging Face tokenizer: a later process uses cached facts and loads the tokenizer at its first use."""

import pickle

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_manager import loading
from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.tokenizers import factory
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from tests.data_manager.text_configs import text_config, texts


def write_words(folder, *words):
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(folder / "words" / "tokenizer.json"))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.txt").write_text("a b c\n" * 20)
    (tmp_path / "words").mkdir()
    write_words(tmp_path, "a", "b", "c")
    return text_config(tmp_path, {"train": "a.txt"}, tokenizer=TokenizerConfig(type="hugging_face", path="words"))


@pytest.fixture
def readings(monkeypatch):
    """A list that grows with each folder that is read; what this process knows is forgotten."""
    found = []
    whole = HuggingFaceTokenizer.load.__func__
    monkeypatch.setattr(HuggingFaceTokenizer, "load", classmethod(lambda *given: found.append(1) or whole(*given)))
    return found


def start_again():
    factory._cache.clear()
    loading.LOADED.clear()


NUMBERS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")


def test_cached_tokenizer_loads_at_first_use(config, readings, tmp_path):
    first = DatasetManager.load_dataset(config)["train"]["input_ids"][:]
    whole = DatasetManager.tokenizer(config)
    start_again()
    assert DatasetManager.load_dataset(config)["train"]["input_ids"][:] == first
    known = DatasetManager.tokenizer(config)
    next(iter(DatasetManager.create_dataloader(DatasetManager.load_dataset(config)["train"], config, batch_size=2)))
    assert len(readings) == 1
    assert [getattr(known, name) for name in NUMBERS] == [getattr(whole, name) for name in NUMBERS]
    assert known.identity() == whole.identity()
    assert pickle.loads(pickle.dumps(known)).encode("c b") == [2, 1]
    assert known.decode([2, 1]) == whole.decode([2, 1])
    known.save(tmp_path / "saved")
    assert HuggingFaceTokenizer.load(tmp_path / "saved").identity() == whole.identity()


def test_cached_tokenizer_reloads_changed_files(config, readings, tmp_path):
    assert texts(config)[0].startswith("a b c")
    write_words(tmp_path, "c", "b", "a")
    start_again()
    assert texts(config)[0].startswith("a b c")
    assert DatasetManager.tokenizer(config).encode("c b") == [0, 1]
    assert len(readings) == 2


@pytest.mark.parametrize("harm", ["half", "other numbers"])
def test_cached_tokenizer_rewrites_corrupt_facts(config, readings, tmp_path, harm):
    DatasetManager.load_dataset(config)
    (facts,) = tmp_path.glob("out/tiny/tokenizer-*/facts.json")
    size = facts.stat().st_size
    facts.write_text("{" if harm == "half" else "[]".ljust(size))
    start_again()
    assert DatasetManager.tokenizer(config).vocab_size == 5
    assert len(readings) == 2


def test_cached_tokenizer_in_several_processes(config, readings):
    DatasetManager.load_dataset(config)
    start_again()
    shorter = config.model_copy(
        update={"sequence_length": 7, "global_config": config.global_config.model_copy(update={"num_proc": 2})}
    )
    assert all(len(row) <= 7 for row in DatasetManager.load_dataset(shorter)["train"]["input_ids"][:])
    assert len(readings) == 2
