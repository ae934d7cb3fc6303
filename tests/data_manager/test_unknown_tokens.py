"""Unknown tokens are counted by every tokenizer that has them, with their positions, in rows and in streams."""

import json
import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_manager.dataset_types import TokenizerConfig
from data_manager.documents import Notes
from data_manager.molecules.load import smiles_corpora
from data_manager.molecules.types import SmilesDatasetConfig
from data_manager.rows.encode import UNKNOWN_REWRITTEN, encode_corpus
from data_manager.tokenizers.base import unknown_id
from data_manager.tokenizers.simple import CharacterTokenizer
from tests.data_manager.text_configs import notes, shared, text_config, texts


@pytest.fixture
def folder(tmp_path):
    """Folder with a training split of two letters, and a test split with others in lines 2 and 4."""
    (tmp_path / "train.txt").write_text("ab\nba\n" * 3)
    (tmp_path / "test.txt").write_text("ab\nac\nb\ncdb\n")
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##b": 2, "b": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "words").mkdir()
    inner.save(str(tmp_path / "words" / "tokenizer.json"))
    (tmp_path / "words" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[UNK]"})
    )
    return tmp_path


def config_of(folder, kind="characters", **more):
    tokenizer = TokenizerConfig(type=kind, **({"path": "words"} if kind == "hugging_face" else {}))
    files = {"train": "train.txt", "test": "test.txt"}
    return text_config(folder, files, **{"documents": "line", "tokenizer": tokenizer, **more})


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("characters", {}, ["3 unknown tokens, whose text is lost, in 2 texts (test.txt:2, 4)"]),
        ("characters", {"rows": "packed"}, ["3 unknown tokens, whose text is lost, in 2 texts (test.txt:2, 4)"]),
        (
            "characters",
            {"rows": "whole", "num_proc": 2},
            ["3 unknown tokens, whose text is lost, in 2 texts (test.txt:2, 4)"],
        ),
        ("characters", {"documents": "file"}, ["3 unknown tokens, whose text is lost, in 1 text (test.txt:1)"]),
        ("hugging_face", {}, ["2 unknown tokens, whose text is lost, in 2 texts (test.txt:2, 4)"]),
        ("bytes", {}, []),
    ],
)
def test_unknown_tokens_are_counted(folder, kind, more, expected):
    config = config_of(folder, kind, **more)
    texts(config, "test")
    assert notes(config, "test") == [f"test: {line}" for line in expected]
    if kind != "hugging_face":
        assert notes(config) == []


def test_unknown_tokens_of_a_long_document_are_logged_once(folder, caplog):
    (folder / "test.txt").write_text("a" * 300_000 + " c" + "\nb" * 100_000 + "c")
    config = config_of(folder, documents="file")
    with caplog.at_level(logging.WARNING):
        texts(config, "test")
    assert caplog.messages == [f"tiny: test: 3 unknown tokens, whose text is lost, in 1 text ({folder}/test.txt:1)"]


def test_unknown_tokens_of_a_stream_are_logged(folder, caplog):
    config = config_of(folder, streaming=True, shuffle_buffer=1)
    with caplog.at_level(logging.WARNING):
        assert len(texts(config, "test")) == 4
    assert f"tiny test: 3 unknown tokens, whose text is lost, in 2 texts ({folder}/test.txt:2, 4)" in caplog.messages


def test_end_of_text_is_not_unknown():
    class Gpt2:
        bos_token_id = eos_token_id = pad_token_id = unk_token_id = 50256

    assert unknown_id(Gpt2()) is None


def test_source_columns_skip_rewritten_rows_with_unknown_tokens(tmp_path):
    pytest.importorskip("rdkit", reason="needs rdkit, the extra chem")
    (tmp_path / "a.smi").write_text("C(C)Br\nOCC\nBrCC\nC\n")
    config = SmilesDatasetConfig(
        name="tiny", data_files={"train": "a.smi"}, canonical=True, global_config=shared(tmp_path)
    )
    notes = Notes()
    corpus = smiles_corpora(config)["train"]
    (found,) = encode_corpus(corpus, CharacterTokenizer("CO"), config, notes, with_source=True)
    assert found.texts == [("CCO",), ("C",)]
    assert [ends.tolist() for ends in found.token_ends] == [[1, 2, 3, 4]]
    assert notes.counts == {f"skipped: {UNKNOWN_REWRITTEN}": 2}
