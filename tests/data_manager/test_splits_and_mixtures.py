"""Splits by ratio, weighted mixtures, streams, and length bucketing."""

import logging
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.rows.loader import LengthBuckets
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.split import draw_splits
from data_manager.text.types import TextDatasetConfig
from tests.data_manager.text_configs import BYTES, notes, shared, text_config, texts


def write_lines(path, count, word="line"):
    path.write_text("".join(f"{word} {number}\n" for number in range(count)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 300))
def test_split_ratios_hold_from_the_beginning(weights, seed, count):
    ratios = [(str(index), weight / sum(weights)) for index, weight in enumerate(weights)]
    names = draw_splits(ratios, seed)
    found = Counter(next(names) for _ in range(20 * count))
    assert all(abs(found[name] - share * 20 * count) <= len(weights) for name, share in ratios)


def test_splits_by_ratio(tmp_path):
    write_lines(tmp_path / "a.txt", 100)
    ratios = {"train": 0.9, "validation": 0.05, "test": 0.05}
    config = text_config(tmp_path, {"all": "a.txt"}, documents="line", rows="whole", splits=ratios)
    found = {split: texts(config, split) for split in ratios}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 90, "validation": 5, "test": 5}
    assert sorted(chain(*found.values())) == sorted(f"line {number}" for number in range(100))
    assert texts(config, "test") == found["test"]
    assert texts(config.model_copy(update={"split_seed": 1}), "test") != found["test"]


def test_split_of_one_document_is_an_error(tmp_path):
    write_lines(tmp_path / "a.txt", 100)
    with pytest.raises(
        DataError, match="split 'test' has no documents\nThere are too few documents to divide; for text"
    ):
        texts(text_config(tmp_path, {"all": "a.txt"}, splits={"train": 0.9, "test": 0.1}))


@pytest.mark.parametrize("ratios", [{"train": 0.9}, {"train": 0.5, "test": 0.6}, {}, {"train": 1.5, "test": -0.5}])
def test_split_ratios_must_sum_to_one(tmp_path, ratios):
    with pytest.raises(ValidationError, match=r"splits"):
        text_config(tmp_path, {"all": "a.txt"}, splits=ratios)


def part(folder, name, **more):
    return TextDatasetConfig(
        name=name, data_files={"train": f"{name}.txt"}, documents="line", tokenizer=BYTES,
        global_config=shared(folder), **more,
    )  # fmt: skip


def mixture(folder, weights, **more):
    parts = tuple(part(folder, name) for name in weights)
    settings = {"tokenizer": BYTES, "rows": "whole", "global_config": shared(folder), "entries": parts, **more}
    return MixtureDatasetConfig(name="mix", datasets=weights, **settings)


def words(rows):
    return Counter(row.split()[0] for row in rows)


def test_mixture_draws_rows_by_weight(tmp_path):
    write_lines(tmp_path / "a.txt", 1000, "a")
    write_lines(tmp_path / "b.txt", 500, "b")
    config = mixture(tmp_path, {"a": 3, "b": 1})
    rows = texts(config)
    found = words(rows)
    assert 0.7 < found["a"] / found.total() < 0.8
    assert len(set(rows)) == len(rows)
    assert found["a"] == 1000
    assert notes(config) == [
        "train: an epoch uses 1,000 rows of a, which has 1,000",
        f"train: an epoch uses {found['b']:,} rows of b, which has 500",
    ]
    every = words(texts(mixture(tmp_path, {"a": 3, "b": 1}, stop="all_exhausted")))
    assert every["b"] == 500
    assert every["a"] > 1200


def test_mixture_evaluation_split_has_all_rows(tmp_path):
    write_lines(tmp_path / "a.txt", 40, "a")
    write_lines(tmp_path / "b.txt", 40, "b")
    config = mixture(tmp_path, {"a": 3, "b": 1})
    halves = {"train": 0.5, "test": 0.5}
    entries = tuple(entry.model_copy(update={"splits": halves}) for entry in config.entries)
    assert words(texts(config.model_copy(update={"entries": entries}), "test")) == {"a": 20, "b": 20}


def test_mixture_learns_one_tokenizer(tmp_path):
    write_lines(tmp_path / "a.txt", 3, "a")
    write_lines(tmp_path / "b.txt", 3, "b")
    config = mixture(tmp_path, {"a": 1, "b": 1}).model_copy(
        update={"tokenizer": BYTES.model_copy(update={"type": "characters"})}
    )
    assert DatasetManager.tokenizer(config).characters == [" ", "0", "1", "2", "a", "b"]


def test_mixture_parts_are_checked(tmp_path):
    with pytest.raises(ValidationError, match="no other entry is named 'c'"):
        mixture(tmp_path, {"a": 1, "b": 1}).model_validate(
            {"name": "mix", "datasets": {"a": 1, "c": 1}, "entries": (part(tmp_path, "a"), part(tmp_path, "b"))}
        )
    with pytest.raises(DataError, match="give the config of its part 'a' in entries"):
        texts(MixtureDatasetConfig(name="mix", datasets={"a": 1}, global_config=shared(tmp_path)))
    pair = TextDatasetConfig(name="b", data_files={"train": {"source": "x", "target": "y"}})
    with pytest.raises(ValidationError, match="cannot be mixed: one has pairs"):
        MixtureDatasetConfig(name="mix", datasets={"a": 1, "b": 1}, entries=(part(tmp_path, "a"), pair))


def test_stream_has_the_rows_of_the_table(tmp_path):
    write_lines(tmp_path / "a.txt", 500)
    write_lines(tmp_path / "b.txt", 300, "other")
    for layout in ("cut", "packed", "whole"):
        settings = {"documents": "line", "rows": layout, "sequence_length": 32}
        table = [texts(text_config(tmp_path, {"train": name}, **settings)) for name in ("a.txt", "b.txt")]
        stream = text_config(tmp_path, {"train": ["a.txt", "b.txt"]}, streaming=True, **settings)
        assert texts(stream) == [*table[0], *table[1]]
    assert DatasetManager.preparation(stream)["train"].tokens is None


def loader(config, **more):
    data = DatasetManager.load_dataset(config)["train"]
    return DatasetManager.create_dataloader(data, config, batch_size=8, **more)


def lines_of(config, batches):
    tokenizer = DatasetManager.tokenizer(config)
    return [tokenizer.decode(row) for batch in batches for row in batch["input_ids"].tolist()]


def test_stream_shuffle_buffer(tmp_path):
    write_lines(tmp_path / "a.txt", 200)
    config = text_config(
        tmp_path, {"train": "a.txt"}, documents="line", rows="whole", streaming=True, shuffle_buffer=50
    )
    batches = loader(config, shuffle=True, seed=3)
    first, second = lines_of(config, batches), lines_of(config, batches)
    assert sorted(first) == sorted(second) == sorted(f"line {number}" for number in range(200))
    assert first != second
    assert lines_of(config, loader(config, shuffle=True, seed=3)) == first
    assert lines_of(config, loader(config)) == [f"line {number}" for number in range(200)]
    assert max(int(line.split()[1]) for line in first[:8]) < 60


def test_stream_with_more_workers_than_shards(tmp_path, caplog):
    write_lines(tmp_path / "a.txt", 30)
    write_lines(tmp_path / "b.txt", 30, "other")
    config = text_config(tmp_path, {"train": ["a.txt", "b.txt"]}, documents="line", rows="whole", streaming=True)
    with caplog.at_level(logging.WARNING):
        found = lines_of(config, loader(config, num_workers=5))
    assert len(found) == len(set(found)) == 60
    assert "5 workers for a stream of 2 shards; 3 idle workers are not started" in caplog.text


def test_stream_of_a_mixture(tmp_path):
    write_lines(tmp_path / "a.txt", 300, "a")
    write_lines(tmp_path / "b.txt", 300, "b")
    found = words(texts(mixture(tmp_path, {"a": 2, "b": 1}, streaming=True)))
    assert found["a"] == 300
    assert 100 < found["b"] < 200


def test_stream_logs_skipped_lines(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a\n\nb\n")
    config = text_config(tmp_path, {"train": "a.txt"}, documents="line", streaming=True)
    with caplog.at_level(logging.WARNING):
        assert texts(config) == ["a", "b"]
    assert f"tiny train: 1 skipped: empty line ({tmp_path}/a.txt:2)" in caplog.text


def test_document_ids_and_positions(tmp_path):
    (tmp_path / "a.txt").write_text("abc\nd\nefghi\n")
    config = text_config(
        tmp_path, {"train": "a.txt"}, documents="line", rows="packed", sequence_length=8, document_ids=True,
        position_ids=True,
    )  # fmt: skip
    (batch,) = loader(config)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["document_ids"].tolist() == [[1, 1, 1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 2, 3, 0, 0, 0, 0]]
    with pytest.raises(ValidationError, match="document_ids need packed rows"):
        text_config(tmp_path, {"train": "a.txt"}, document_ids=True)


def test_buckets_hold_every_row_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 1003)
    buckets = LengthBuckets(lengths, 10, shuffle=True, seed=1)
    first, second = list(buckets), list(buckets)
    assert len(first) == len(buckets) == 101
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(1003))
    assert first != second
    assert list(LengthBuckets(lengths, 10, shuffle=True, seed=1)) == first
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded < 1.05 * lengths.sum()


def test_bucketing_batches_similar_lengths(tmp_path):
    (tmp_path / "a.txt").write_text("".join("x" * (number * 7 % 50 + 1) + "\n" for number in range(200)))
    config = text_config(tmp_path, {"train": "a.txt"}, documents="line", rows="whole", bucketing=True)
    batches = list(loader(config, shuffle=True))
    assert sum(len(batch["input_ids"]) for batch in batches) == 200
    assert sum(int((~batch["attention_mask"]).sum()) for batch in batches) < 300
