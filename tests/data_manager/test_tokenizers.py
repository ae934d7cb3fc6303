"""Tokenizers: round trips, special tokens, saving and loading."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_manager.errors import DataError
from data_manager.tokenizers.base import REPLACEMENT
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from tests.real_data import real_data

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(any_text)
def test_characters_round_trip(text):
    tokenizer = CharacterTokenizer.of([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(4 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.vocab_size == len(set(text)) + 4


@given(any_text)
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text.encode())


def test_characters_are_in_order_and_unknown_ones_become_unk():
    tokenizer = CharacterTokenizer.of(["ba", "c"])
    assert tokenizer.encode("abcx") == [4, 5, 6, 3]
    assert tokenizer.decode([1, 4, 3, 2, 0, 99]) == f"a{REPLACEMENT}{REPLACEMENT}"


def test_bytes_have_259_ids_and_survive_a_cut_character():
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocab_size, tokenizer.pad_token_id) == (259, 256)
    assert tokenizer.decode([*tokenizer.encode("ä")[:1], 257, 258, 256]) == REPLACEMENT


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(any_text)
def test_characters_save_and_load(tmp_path, text):
    tokenizer = CharacterTokenizer.of([text])
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.vocab_size == tokenizer.vocab_size


def test_bytes_save_and_load(tmp_path):
    ByteTokenizer().save(tmp_path / "new" / "folder")
    assert isinstance(load_tokenizer(tmp_path / "new" / "folder"), ByteTokenizer)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"type": "characters"}', '{"type": "characters", "characters": ["ab"]}', '{"type": 1}'],
)
def test_invalid_vocabulary_is_a_data_error(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(DataError, match=r"vocabulary\.json"):
        load_tokenizer(tmp_path)


@pytest.fixture
def word_tokenizer(tmp_path):
    """A tokenizer.json of three words without any special token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    return HuggingFaceTokenizer.load(tmp_path)


def test_missing_special_tokens_are_added(word_tokenizer, tmp_path):
    assert word_tokenizer.encode("a c b") == [0, 2, 1]
    specials = word_tokenizer.bos_token_id, word_tokenizer.eos_token_id, word_tokenizer.pad_token_id
    assert specials == (3, 4, 4)
    assert word_tokenizer.vocab_size == 5
    word_tokenizer.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "vocabulary.json").read_text())["type"] == "hugging_face"
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.encode("c b") == [2, 1]
    assert (loaded.vocab_size, loaded.eos_token_id) == (5, 4)


def test_decoding_skips_special_and_unknown_ids(word_tokenizer):
    assert word_tokenizer.decode([3, 0, 4, 999]).strip() == "a"


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer folder .*absent does not exist"):
        HuggingFaceTokenizer.load(tmp_path / "absent")
    with pytest.raises(DataError, match=r"contains none of tokenizer\.json"):
        HuggingFaceTokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=r"lacks its merges\.txt"):
        HuggingFaceTokenizer.load(tmp_path)
    with pytest.raises(DataError, match="is a file; give its folder"):
        HuggingFaceTokenizer.load(tmp_path / "vocab.json")
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(DataError, match="cannot be read"):
        HuggingFaceTokenizer.load(tmp_path)


def test_gpt2():
    tokenizer = HuggingFaceTokenizer.load(real_data("gpt2_tokenizer"))
    text = "Hello world,\n\n  naïve  Fähre \N{GRINNING FACE}"
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.vocab_size, tokenizer.pad_token_id, tokenizer.eos_token_id) == (50257, 50256, 50256)
