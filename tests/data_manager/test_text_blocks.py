"""Text blocks: concatenated blocks equal the file, and invalid bytes are reported with their line."""

import bz2
import gzip
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.documents import Invalid, Notes
from data_manager.errors import DataError
from data_manager.text import files
from data_manager.text.files import TextFile, text_blocks
from tests.data_manager.text_configs import notes, text_config, texts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks") / "a.txt"


def read(path, skip=False):
    return list(text_blocks(path, Invalid(skip, Notes())))


@given(st.text(st.sampled_from("aä€𝄞\n\r"), min_size=1), st.integers(1, 5), st.integers(1, 5))
def test_blocks_concatenate_to_the_text(place, text, block, long_line):
    place.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        patch.setattr(files, "LONG_LINE", long_line)
        blocks = read(place)
    assert "".join(found.text for found in blocks) == text.replace("\r\n", "\n")
    for index, found in enumerate(blocks):
        assert found.line == 1 + "".join(before.text for before in blocks[:index]).count("\n")


def test_long_line_is_read_in_parts(place):
    place.write_bytes("ä".encode() * 2_000_000)
    sizes = [len(block.text) for block in read(place)]
    assert sum(sizes) == 2_000_000
    assert max(sizes) < 1_200_000


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_compressed_files(tmp_path, ending, pack):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(pack.compress("one\nzwö\n".encode()))
    assert [block.text for block in read(path)] == ["one\nzwö\n"]
    path.write_bytes(pack.compress(b"one\n" * 9999)[:-9])
    with pytest.raises(DataError, match=f"a.txt{ending} cannot be read"):
        read(path)


def test_invalid_line_is_skipped_and_numbers_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\nb\xffd\nthree\n\nfi\xe4ve\nsix")
    config = text_config(tmp_path, {"train": "a.txt"}, documents="line", on_invalid="skip", rows="whole")
    assert texts(config) == ["one", "three", "six"]
    assert notes(config) == ["train: 2 skipped: not UTF-8 (a.txt:2, 5)", "train: 1 skipped: empty line (a.txt:4)"]
    assert [piece.line for piece in TextFile(tmp_path / "a.txt", "line", True).read(Notes())] == [1, 3, 6]
    (tmp_path / "a.txt").write_bytes(b"one\nb\xffd\nthree")
    assert "".join(texts(text_config(tmp_path, {"train": "a.txt"}, on_invalid="skip"))) == "one\nthree"


def test_pairs_stay_aligned_around_an_invalid_line(tmp_path):
    (tmp_path / "a.en").write_bytes(b"one\nt\xffo\nthree\n")
    (tmp_path / "a.de").write_text("eins\nzwei\ndrei\n")
    pair = {"source": "a.en", "target": "a.de"}
    config = text_config(tmp_path, {"train": pair}, on_invalid="skip")
    assert texts(config) == [("one", "eins"), ("three", "drei")]
    assert notes(config) == ["train: 1 skipped: not UTF-8 (a.en:2)"]
    with pytest.raises(DataError, match=r"a\.en:2: byte 0xff at offset 5 is not UTF-8"):
        texts(text_config(tmp_path, {"train": pair}))


def test_paragraphs_and_globs(tmp_path):
    (tmp_path / "a1.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "a2.txt").write_text("\nfour\n")
    config = text_config(tmp_path, {"train": "a*.txt"}, documents="paragraph", rows="whole")
    assert texts(config) == ["one\ntwo", "three", "four"]
    assert [piece.line for piece in TextFile(tmp_path / "a1.txt", "paragraph").read(Notes())] == [1, 5]
