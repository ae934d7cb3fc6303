"""Text files: search paths, messages about invalid files, and batches with masks."""

import gzip

import pytest
import torch

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import GlobalConfig, TokenizerConfig
from data_manager.errors import DataError
from data_manager.text.types import EmbeddedDatasetConfig, TextDatasetConfig
from tests.real_data import real_data


def text_config(folder, files, **more):
    shared = GlobalConfig(corpus_dir=folder, output_dir=folder / "out")
    return TextDatasetConfig(name="tiny", data_files=files, global_config=shared, **more)


def load(config):
    return DatasetManager.load_datasets(datasets=[config])[config.name]


def test_batches_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefg\n\nhi\n")
    config = text_config(tmp_path, {"train": "a.txt"}, sequence_length=5)
    splits = load(config)
    (batch,) = DatasetManager.create_dataloader(splits["train"], config, batch_size=4)
    assert batch["input_ids"].shape == (3, 5)
    assert batch["input_ids"].dtype == torch.int64
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["attention_mask"].sum(1).tolist() == [5, 5, 3]
    tokenizer = DatasetManager.tokenizer(config)
    assert (batch["input_ids"][~batch["attention_mask"]] == tokenizer.pad_token_id).all()
    assert "".join(tokenizer.decode(row) for row in batch["input_ids"].tolist()) == "abcdefg\n\nhi\n"


def test_characters_are_learned_from_train_only(tmp_path):
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.txt").write_text("abz")
    config = text_config(tmp_path, {"test": "b.txt", "train": "a.txt"})
    assert DatasetManager.tokenizer(config).vocab_size == 6
    assert load(config)["test"]["input_ids"][0] == [4, 5, 3, 2]


def test_tokenizer_is_relearned_when_text_is_reloaded(tmp_path):
    (tmp_path / "a.txt").write_text("ab")
    config = text_config(tmp_path, {"train": "a.txt"})
    load(config)
    (tmp_path / "a.txt").write_text("abc")
    load(config)
    assert DatasetManager.tokenizer(config).vocab_size == 7


def test_batches_of_pairs(tmp_path):
    (tmp_path / "a.en").write_text("one\nthree four\n")
    (tmp_path / "a.de").write_text("eins\r\nüb\r\n")
    config = text_config(tmp_path, {"train": {"source": "a.en", "target": "a.de"}})
    tokenizer = DatasetManager.tokenizer(config)
    (batch,) = DatasetManager.create_dataloader(load(config)["train"], config, batch_size=2)
    assert DatasetManager.tokenizer(config).vocab_size == tokenizer.vocab_size
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "source_ids": (2, 12),
        "source_mask": (2, 12),
        "target_ids": (2, 6),
        "target_mask": (2, 6),
    }
    assert batch["target_mask"].tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert (batch["target_ids"][:, 0] == tokenizer.bos_token_id).all()
    assert [batch["target_ids"][i, n - 1].item() for i, n in enumerate((6, 4))] == [tokenizer.eos_token_id] * 2
    assert tokenizer.decode(batch["target_ids"][1]) == "üb"


def test_shuffling_follows_the_seed(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{n:03d}" for n in range(100)))
    config = text_config(tmp_path, {"train": "a.txt"}, sequence_length=3)
    data = load(config)["train"]

    def order(seed):
        loader = DatasetManager.create_dataloader(data, config, batch_size=1, shuffle=True, seed=seed)
        return [tuple(batch["input_ids"][0].tolist()) for batch in loader]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_num_workers_does_not_change_batches(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh" * 8)
    config = text_config(tmp_path, {"train": "a.txt"}, sequence_length=4)
    data = load(config)["train"]
    alone, helped = (
        [
            batch["input_ids"]
            for batch in DatasetManager.create_dataloader(data, config, batch_size=3, num_workers=workers)
        ]
        for workers in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_files_are_searched_in_three_folders(tmp_path, monkeypatch):
    corpora, here = tmp_path / "corpora", tmp_path / "here"
    for folder, content in ((corpora, "c"), (corpora / "tiny", "bb"), (here, "aaa")):
        folder.mkdir()
        (folder / "a.txt").write_text(content)
    monkeypatch.chdir(here)
    config = text_config(corpora, {"train": "a.txt"})
    for expected in ("aaa", "bb", "c"):
        row = load(config)["train"]["input_ids"][0]
        assert DatasetManager.tokenizer(config).decode(row) == expected
        (here if expected == "aaa" else corpora / "tiny" if expected == "bb" else corpora).joinpath("a.txt").unlink()
    with pytest.raises(DataError) as caught:
        load(config)
    assert str(caught.value) == (
        f"data set 'tiny': the file of split 'train', 'a.txt' is not there; looked for\n  {here / 'a.txt'}\n"
        f"  {corpora / 'tiny' / 'a.txt'}\n  {corpora / 'a.txt'}\n"
        "Move it to one of these paths or beside the config, or set global_config.corpus_dir to its folder."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path} is empty; remove it from data_files"),
        (
            b"good\nb\xe4d\n",
            "{path}:2: byte 0xe4 at offset 6 is not UTF-8; save the file as UTF-8",
        ),
        (
            b"\xef\xbb\xbfgood\n\xff",
            "{path}:2: byte 0xff at offset 8 is not UTF-8; save the file as UTF-8",
        ),
    ],
)
def test_invalid_files(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(text_config(tmp_path, {"train": "a.txt"}))
    assert str(caught.value) == message.format(path=path)


def test_folder_is_its_files_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=r"sub is a folder without files that source text reads \(\*.txt, "):
        load(text_config(tmp_path, {"train": "sub"}))
    for name, text in (("b.txt", "two"), ("a.txt", "one"), (".hidden.txt", "no"), ("c.bin", "no")):
        (tmp_path / "sub" / name).write_text(text)
    with gzip.open(tmp_path / "sub" / "c.txt.gz", "wt") as file:
        file.write("three")
    rows = DatasetManager.load_datasets([text_config(tmp_path, {"train": "sub"})])["tiny"]["train"]
    assert len(rows) == 3
    tokenizer = DatasetManager.tokenizer(text_config(tmp_path, {"train": "sub"}))
    assert [tokenizer.decode(row) for row in rows["input_ids"]] == ["one", "two", "three"]


def test_pairs_with_different_counts(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\n")
    config = text_config(tmp_path, {"train": {"source": "a.en", "target": "a.de"}})
    with pytest.raises(DataError, match=r"a\.en has 2 lines and .*a\.de has 1"):
        load(config)


def test_duplicate_data_set_names(tmp_path):
    config = EmbeddedDatasetConfig(name="x")
    with pytest.raises(DataError, match="two data sets have the name 'x'"):
        DatasetManager.load_datasets([config, config])


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_embedded_corpus(kind):
    config = EmbeddedDatasetConfig(name="docs", tokenizer=TokenizerConfig(type=kind), sequence_length=128)
    splits = load(config)
    assert list(splits) == ["train", "validation", "test"]
    assert len(splits["train"]) > 1000
    assert all(len(data) > 10 for data in splits.values())
    batch = next(iter(DatasetManager.create_dataloader(splits["validation"], config, batch_size=8)))
    assert batch["input_ids"].shape == (8, 128)
    text = DatasetManager.tokenizer(config).decode(batch["input_ids"][0])
    assert text.isprintable() or "\n" in text
    assert int(batch["input_ids"].max()) < DatasetManager.tokenizer(config).vocab_size


def test_real_pairs():
    files = {"train": {"source": "val.en", "target": "val.de"}, "test": {"source": "train.en", "target": "train.de"}}
    shared = GlobalConfig(corpus_dir=real_data("multi30k").parent)
    config = TextDatasetConfig(name="multi30k", data_files=files, global_config=shared)
    splits = load(config)
    assert {split: len(data) for split, data in splits.items()} == {"train": 1014, "test": 29000}
    batch = next(iter(DatasetManager.create_dataloader(splits["train"], config, batch_size=1)))
    tokenizer = DatasetManager.tokenizer(config)
    assert tokenizer.decode(batch["source_ids"][0]) == "a group of men are loading cotton onto a truck"


def test_real_text_with_a_real_tokenizer():
    corpora = real_data("wikitext2").parent
    config = TextDatasetConfig(
        name="wikitext2",
        data_files={"train": "valid.txt"},
        tokenizer=TokenizerConfig(type="hugging_face", path=real_data("gpt2_tokenizer")),
        sequence_length=256,
        global_config=GlobalConfig(corpus_dir=corpora),
    )
    rows = load(config)["train"]["input_ids"]
    text = DatasetManager.tokenizer(config).decode(token for row in rows for token in row)
    assert text == (corpora / "wikitext2" / "valid.txt").read_text(encoding="utf-8")
