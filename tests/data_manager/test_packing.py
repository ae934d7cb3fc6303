"""Packing: every token stands in exactly one row, and no row spans two documents."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.errors import DataError
from data_manager.packing import pack, pair, pieces
from data_manager.tokenizers import ByteTokenizer, CharacterTokenizer


@given(st.text(alphabet="ab \n"), st.integers(1, 20))
def test_pieces_are_the_text_and_begin_at_lines(text, size):
    found = list(pieces(text, size))
    assert "".join(found) == text
    assert all(piece.endswith("\n") for piece in found[:-1])
    assert all(not piece[0].isspace() for piece in found[1:])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet="abc\n", min_size=1, max_size=40), min_size=1, max_size=4), st.integers(2, 12))
def test_nothing_is_lost(documents, length):
    tokenizer = CharacterTokenizer.of(documents)
    rows = pack(documents, tokenizer, length)["input_ids"]
    flat = [token for row in rows for token in row]
    wanted = [token for text in documents for token in [*tokenizer.encode(text), tokenizer.eos_token_id]]
    assert flat == wanted
    assert all(len(row) <= length for row in rows)
    assert length == 2 or all(len(row) > 1 for row in rows)
    ends = [index for index, row in enumerate(rows) if row[-1] == tokenizer.eos_token_id]
    assert len(ends) == len(documents)
    assert all(tokenizer.eos_token_id not in row[:-1] for row in rows)


def test_long_text_crosses_pieces():
    text = "line of text\n" * 20_000
    rows = pack([text], ByteTokenizer(), 256)["input_ids"]
    assert ByteTokenizer().decode(token for row in rows for token in row) == text


def test_pairs_begin_and_end_with_special_tokens():
    tokenizer = ByteTokenizer()
    rows = pair((["a", ""], ["bc", "d"]), tokenizer, None, ("a", "b"))
    assert list(rows["source_ids"]) == [[257, 97, 258], [257, 258]]
    assert list(rows["target_ids"]) == [[257, 98, 99, 258], [257, 100, 258]]


def test_pairs_of_different_lengths_and_long_sentences():
    with pytest.raises(DataError, match=re.escape("x.en has 2 lines and x.de has 1; line N of one")):
        pair((["a", "b"], ["c"]), ByteTokenizer(), None, ("x.en", "x.de"))
    with pytest.raises(DataError, match=re.escape("x.de:2: 5 tokens are more than sequence_length 4")):
        pair((["a", "b"], ["c", "def"]), ByteTokenizer(), 4, ("x.en", "x.de"))
