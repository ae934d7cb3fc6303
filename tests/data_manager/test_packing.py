"""Packing: every token is in exactly one row, independent of batching."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.documents import Notes, pieces
from data_manager.errors import DataError
from data_manager.rows.pack import STARTS, CutRows, Encoded, WholeRows
from data_manager.tokenizers.base import flat
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from data_manager.tokenizers.simple import ByteTokenizer
from tests.real_data import real_data

EOS = 258


@given(st.text(alphabet="ab \n"), st.integers(1, 20), st.integers(1, 7))
def test_chunks_concatenate_to_text_and_begin_at_lines(text, size, block):
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    found = list(pieces(iter(blocks), size))
    assert found == list(pieces(iter([text]), size))
    assert "".join(found) == text
    assert all(piece.endswith("\n") for piece in found[:-1])
    assert all(piece[0] == "a" or piece[0] == "b" or piece[:2] in (" a", " b") for piece in found[1:])


def test_chunks_of_text_without_lines():
    found = list(pieces("a" * (1 << 16) for _ in range(40)))
    assert sum(map(len, found)) == 40 << 16
    assert max(map(len, found)) <= 1 << 18
    found = list(pieces("word " * (1 << 16) for _ in range(4)))
    assert all(piece.startswith(" word") for piece in found[1:])


def test_chunks_tokenise_like_the_whole_text():
    tokenizer = HuggingFaceTokenizer.load(real_data("gpt2_tokenizer"))
    text = (real_data("wikitext2") / "valid.txt").read_text(encoding="utf-8")[:200_000]
    found = list(pieces(iter([text]), 1000))
    assert len(found) > 100
    assert [token for piece in found for token in tokenizer.encode(piece)] == tokenizer.encode(text)


def parts(documents, sizes):
    """Documents as encoded parts of `sizes` pieces each; a document of several strings comes in several pieces."""
    flat_pieces = [(text, index == len(document) - 1) for document in documents for index, text in enumerate(document)]
    found, start = [], 0
    for size in [*sizes, len(flat_pieces)]:
        chunk = flat_pieces[start : start + size]
        start += size
        if chunk:
            ids = flat([list(text.encode()) for text, _ in chunk])
            found.append(Encoded([ids], np.array([ends for _, ends in chunk]), ["f:1"] * len(chunk)))
    return found


def rows_of(maker, documents, sizes=()):
    found = {name: [] for name in maker.columns}
    for columns in [*(maker.feed(part) for part in parts(documents, sizes)), maker.finish()]:
        for name, (values, offsets) in columns.items():
            found[name] += [values[a:b].tolist() for a, b in pairwise(offsets)]
    return found


documents_and_sizes = st.tuples(
    st.lists(st.lists(st.text("abc", max_size=15), min_size=1, max_size=3), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), max_size=4),
)


@given(documents_and_sizes, st.integers(1, 12))
def test_cut_rows_are_lossless_and_hold_one_document(given_documents, length):
    documents, sizes = given_documents
    rows = rows_of(CutRows(length, EOS), documents, sizes)["input_ids"]
    wanted = [token for document in documents for token in [*"".join(document).encode(), EOS]]
    assert [token for row in rows for token in row] == wanted
    assert all(0 < len(row) <= length for row in rows)
    assert all(EOS not in row[:-1] for row in rows)
    assert length <= 2 or all(len(row) > 1 or row == [EOS] for row in rows)
    assert rows == rows_of(CutRows(length, EOS), documents)["input_ids"]


@given(documents_and_sizes, st.integers(1, 12))
def test_packed_rows_are_full_with_document_starts(given_documents, length):
    documents, sizes = given_documents
    found = rows_of(CutRows(length, EOS, packed=True), documents, sizes)
    rows, starts = found["input_ids"], found[STARTS]
    wanted = [token for document in documents for token in [*"".join(document).encode(), EOS]]
    assert [token for row in rows for token in row] == wanted
    full = rows[:-2] if length > 2 else rows[:-1]
    assert all(len(row) == length for row in full)
    for row, begins in zip(rows, starts, strict=True):
        assert begins == [index + 1 for index, token in enumerate(row[:-1]) if token == EOS]
    assert found == rows_of(CutRows(length, EOS, packed=True), documents)


def test_whole_rows_have_bos_and_eos():
    rows = rows_of(WholeRows(257, EOS, None, "error", Notes()), [["ab"], [""], ["c"]])["input_ids"]
    assert rows == [[257, 97, 98, EOS], [257, EOS], [257, 99, EOS]]


def test_too_long_documents_raise_skip_or_cut():
    documents = [["abcd"], ["ab"], ["abc"]]
    with pytest.raises(DataError, match="f:1: 6 tokens exceed sequence_length 4"):
        rows_of(WholeRows(257, EOS, 4, "error", Notes()), documents)
    notes = Notes()
    assert rows_of(WholeRows(257, EOS, 4, "skip", notes), documents)["input_ids"] == [[257, 97, 98, EOS]]
    assert notes.lines("train") == ["train: 2 skipped: more than sequence_length 4 tokens (f:1, 1)"]
    notes = Notes()
    rows = rows_of(WholeRows(257, EOS, 4, "cut", notes), documents)["input_ids"]
    assert rows == [[257, 97, 98, EOS]] * 3
    assert notes.counts.total() == 2


def test_too_long_pair_is_skipped_with_both_sides():
    maker = WholeRows(257, EOS, 3, "skip", Notes(), ("source_ids", "target_ids"))
    sides = [ByteTokenizer().encode_many(["a", "bb", "c"]), ByteTokenizer().encode_many(["dd", "e", "f"])]
    columns = maker.feed(Encoded(sides, np.ones(3, bool), ["f:1", "f:2", "f:3"]))
    assert {name: values.tolist() for name, (values, _) in columns.items()} == {
        "source_ids": [257, 99, EOS],
        "target_ids": [257, 102, EOS],
    }
