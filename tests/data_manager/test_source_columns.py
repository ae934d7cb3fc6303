"""Source columns: the text of rows, and its characters and bytes, however rows are cut and whatever the tokenizer loses."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_manager.data_manager import DatasetManager
from data_manager.documents import Listed, Notes
from data_manager.rows.encode import build_columns, encode_corpus, row_maker
from data_manager.rows.source import SourceSize
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.tokenizers.bpe import BpeTokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from data_manager.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from data_manager.tokenizers.smiles import SmilesPairTokenizer, SmilesTokenizer
from tests.data_manager.text_configs import BYTES, shared, text_config

TEXTS = [
    "床前明月光疑是地上霜",
    "😀😃 é ə",
    "the dog  sees\tthe Fox",
    "Белеет парус, одинокий.\n",
    "x",
    "CC(=O)[13CH3]Br",
]


def hugging_face(model, pre_tokenizer=None, decoder=None, normalizer=None, trainer=None):
    """Return a wrapped tokenizer of these parts, trained on two texts if a trainer is given."""
    inner = Tokenizer(model)
    if pre_tokenizer is not None:
        inner.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        inner.decoder = decoder
    if normalizer is not None:
        inner.normalizer = normalizer
    if trainer is not None:
        inner.train_from_iterator(TEXTS[2:4] * 3, trainer)
    return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"))


def word_piece():
    words = {word: index for index, word in enumerate(["[UNK]", "the", "dog", "fox", "x", "##x", "e"])}
    return hugging_face(
        models.WordPiece(words, unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
    )


def byte_level():
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    parts = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    return hugging_face(models.BPE(), *parts, trainer=trainer)


def pieces_of_words():
    trainer = trainers.UnigramTrainer(vocab_size=40, unk_token="[UNK]", special_tokens=["[UNK]"], show_progress=False)
    return hugging_face(models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainer=trainer)


class Vowels:
    """Custom tokenizer without `encode_with_ends`, which keeps nothing but vowels."""

    vocab_size, pad_token_id, bos_token_id, eos_token_id, unk_token_id = 8, 0, 1, 2, None

    def encode(self, text):
        return ["aeiou".index(letter) + 3 for letter in text if letter in "aeiou"]

    def decode(self, ids):
        return "".join("aeiou"[index - 3] for index in ids if index > 2)


KINDS = {
    "characters": lambda: CharacterTokenizer.of(TEXTS[2:4]),
    "bytes": ByteTokenizer,
    "bpe": lambda: BpeTokenizer.learn(iter(TEXTS), 300),
    "smiles": lambda: SmilesTokenizer.of(TEXTS[5:]),
    "smiles pairs": lambda: SmilesPairTokenizer.learn(TEXTS[5:] * 9, 120),
    "word piece": word_piece,
    "byte level": byte_level,
    "unigram": pieces_of_words,
    "custom": Vowels,
}


def rows_of(tokenizer, documents, **settings):
    """Return rows with source columns: ids, texts, and sizes [rows, 6]."""
    config = text_config(Path("unused"), {"train": "unused.txt"}, **settings)
    is_paired, notes = not isinstance(documents[0], str), Notes()
    maker = row_maker(config, tokenizer, is_paired, notes, with_source=True)
    encoded = encode_corpus(Listed(documents, "texts"), tokenizer, config, notes, size=30, with_source=True)
    parts = [rows for _, rows in build_columns(maker, encoded)]
    side = "target" if is_paired else "input"
    columns = [rows[f"{side}_ids"] for rows in parts]
    ids = [values[start:end].tolist() for values, offsets in columns for start, end in pairwise(offsets)]
    texts = [text for rows in parts for text in rows[f"{side}_text"][0]]
    return ids, texts, np.concatenate([rows[f"{side}_size"][0] for rows in parts]).reshape(-1, 6)


def size(text):
    return len(text), len(text.encode())


@pytest.mark.parametrize("layout", ["cut", "packed", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_character_counts_once(kind, layout):
    tokenizer = KINDS[kind]()
    length = {} if layout == "whole" else {"sequence_length": 5}
    ids, texts, sizes = rows_of(tokenizer, TEXTS, rows=layout, **length)
    assert len(ids) == len(texts) == len(sizes)
    assert "".join(texts) == "".join(TEXTS)
    assert sizes.sum(0)[:2] == pytest.approx(size("".join(TEXTS)))
    found = SourceSize(*sizes.T)
    assert (found.first_characters <= found.characters + 1e-9).all()
    assert (sizes >= 0).all()
    assert not found.cut_characters.any()
    if layout == "whole":
        assert texts == TEXTS
        assert [tuple(row) for row in sizes[:, :2]] == [size(text) for text in TEXTS]
        assert not found.first_characters.any()  # the begin token has no text


@given(
    st.lists(st.text(min_size=1, max_size=12).filter(lambda text: not text.isspace()), min_size=1, max_size=6),
    st.integers(2, 7),
    st.sampled_from(["cut", "packed"]),
)
def test_characters_of_rows_of_bytes_are_counted_by_their_bytes(documents, length, layout):
    ids, texts, sizes = rows_of(ByteTokenizer(), documents, rows=layout, sequence_length=length)
    shares = [1 / len(letter.encode()) for document in documents for letter in document for _ in letter.encode()]
    position = 0
    for row, found in zip(ids, sizes, strict=True):
        count = sum(token < 256 for token in row)
        first = int(row[0] < 256)
        expected = [
            sum(shares[position : position + count]),
            count,
            sum(shares[position : position + first]),
            first,
            0,
            0,
        ]
        assert found == pytest.approx(expected, abs=1e-9)
        position += count
    assert position == len(shares)
    assert "".join(texts) == "".join(documents)


@pytest.mark.parametrize(
    ("name", "text"), [("zh", "床前明月光疑是地上霜" * 50), ("emoji", "😀😃😄😁" * 200), ("ru", "Белеет парус. " * 30)]
)
def test_predicted_characters_do_not_depend_on_row_ends(name, text):
    """All tokens but the first of a row are predicted; their share of the characters is that of the bytes."""
    (ids, _, sizes) = rows_of(ByteTokenizer(), [text], sequence_length=32)
    found = SourceSize(*sizes.T)
    predicted = sum(sum(token < 256 for token in row[1:]) for row in ids) / len(text.encode())
    assert (found.characters - found.first_characters).sum() / (len(text) * predicted) == pytest.approx(1, abs=0.01)


def test_lost_words_are_counted():
    ids, _, sizes = rows_of(word_piece(), ["the Φ dog zebra fox"], sequence_length=3)
    assert [len(row) for row in ids] == [3, 3]  # the [UNK] dog, [UNK] fox eos
    assert sizes[:, :2].tolist() == [[9, 10], [10, 10]]
    _, _, sizes = rows_of(
        word_piece(), ["\x01\x02", "fox"], sequence_length=3
    )  # a document without tokens has an end token
    assert sizes[:, :2].tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize(("too_long", "kept"), [("cut", [0, 1, 2]), ("skip", [0, 2])])
def test_truncated_documents_keep_their_text(too_long, kept):
    documents = ["é dog", "é dogs and the fox", ""]
    documents[2] = "fox"
    characters = CharacterTokenizer.of(["a dogs and the fox"])
    _, texts, sizes = rows_of(characters, documents, rows="whole", sequence_length=7, too_long=too_long)
    assert texts == [documents[index] for index in kept]
    expected = [[5, 6, 0, 0, 0, 0], [5, 6, 0, 0, 13, 13], [3, 3, 0, 0, 0, 0]]
    assert sizes.tolist() == [expected[index] for index in kept]


def test_pairs_have_the_text_of_both_sides():
    pairs = [("a b", "éé and more"), ("c", "fox")]
    ids, texts, sizes = rows_of(CharacterTokenizer.of(["abc"]), pairs, rows="whole", sequence_length=4, too_long="cut")
    assert texts == ["éé and more", "fox"]
    assert sizes.tolist() == [[2, 4, 0, 0, 9, 9], [2, 2, 0, 0, 1, 1]]
    assert [len(row) for row in ids] == [4, 4]


def test_rows_with_source_are_the_plain_rows(tmp_path):
    """From disk, from a stream, by two processes, of a mixture, and the first rows alone."""
    for name, text in zip("ab", ("床前明月光\nthe dog\n" * 40, "fox 😀\n" * 90), strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    settings = {"sequence_length": 16, "documents": "line"}
    files = {"train": ["a.txt", "b.txt"]}
    config = text_config(tmp_path, files, **settings, rows="packed")
    plain = DatasetManager.load_dataset(config)["train"]
    found = DatasetManager.load_with_source(config, "train").rows
    assert plain["input_ids"][:] == found["input_ids"][:]
    assert plain.column_names == ["input_ids", "document_starts"]
    assert "".join(found["input_text"]) == ("床前明月光the dog" * 40 + "fox 😀" * 90)
    elsewhere = config.global_config.model_copy(update={"num_proc": 2, "output_dir": str(tmp_path / "two")})
    by_two, stream = ({"global_config": elsewhere}, {"streaming": True})
    for change in (by_two, stream):
        rows = DatasetManager.load_with_source(config.model_copy(update=change), "train").rows
        assert [row for row, _ in zip(rows, range(20), strict=False)] == list(found.select(range(20)))
    few = DatasetManager.load_with_source(config, "train", 3).rows
    assert 3 <= len(few) <= len(found)
    assert list(few.select(range(3))) == list(found.select(range(3)))


def test_mixture_with_source_has_the_same_rows(tmp_path):
    parts = []
    for name, text in (("a", "床前明月光\nthe dog\n" * 9), ("b", "fox 😀\n" * 30)):
        (tmp_path / f"{name}.txt").write_text(text)
        part = text_config(tmp_path, {"train": f"{name}.txt"}, documents="line")
        parts.append(part.model_copy(update={"name": name}))
    mixture = MixtureDatasetConfig(
        name="mixed",
        datasets={"a": 3, "b": 1},
        entries=tuple(parts),
        tokenizer=BYTES,
        sequence_length=16,
        global_config=shared(tmp_path),
    )
    mixed = DatasetManager.load_dataset(mixture)["train"]
    rows = DatasetManager.load_with_source(mixture, "train").rows
    assert rows["input_ids"][:] == mixed["input_ids"][:]
    decoded = [DatasetManager.tokenizer(mixture).decode(row) for row in rows["input_ids"]]
    assert list(rows["input_text"]) == decoded  # no line is longer than a row
    assert DatasetManager.load_with_source(mixture, "train", 5).rows.select(range(5))["input_text"][:] == decoded[:5]
