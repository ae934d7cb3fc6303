"""Data hashes depend on every value and row boundary, and on nothing else."""

from dataclasses import replace

import datasets
import pytest
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from data_manager.rows.identity import row_identity

ROWS = [[1, 2, 3], [4], [5, 6]]


def table(**columns):
    return datasets.Dataset.from_dict(columns)


def test_data_hash_equal_for_equal_rows():
    rows = table(input_ids=ROWS, labels=[0, 1, 0])
    parts = datasets.concatenate_datasets([rows.select([0]), rows.select([1, 2])])
    moved = table(labels=[0, 0, 1], input_ids=[ROWS[2], ROWS[0], ROWS[1]]).select([1, 2, 0])
    assert row_identity(rows) == row_identity(parts) == row_identity(moved)


@pytest.mark.parametrize(
    "other",
    [
        {"input_ids": [[1, 2, 3], [4], [5, 7]], "labels": [0, 1, 0]},
        {"input_ids": [[1, 2], [3, 4], [5, 6]], "labels": [0, 1, 0]},
        {"input_ids": [[4], [1, 2, 3], [5, 6]], "labels": [1, 0, 0]},
        {"input_ids": ROWS, "labels": [0, 1, 1]},
        {"input_ids": ROWS, "classes": [0, 1, 0]},
        {"input_ids": ROWS},
        {"input_ids": ROWS[:2], "labels": [0, 1]},
    ],
    ids=["a token", "an end", "an order", "a label", "a name", "a column", "a row"],
)
def test_data_hash_differs_for_different_rows(other):
    assert row_identity(table(**other)) != row_identity(table(input_ids=ROWS, labels=[0, 1, 0]))


def test_data_hash_of_floats_texts_and_nested_lists():
    assert row_identity(table(cond=[[0.5, 1.0]])) != row_identity(table(cond=[[0.5, 1.0 + 1e-12]]))
    assert row_identity(table(text=["a", "bc"])) != row_identity(table(text=["ab", "c"]))
    assert row_identity(table(deep=[[[1], [2]]])) != row_identity(table(deep=[[[1, 2]]]))


def test_data_hash_covers_rows_after_the_first_batch():
    many = [[number] for number in range(10_001)]
    assert row_identity(table(input_ids=many)) != row_identity(table(input_ids=[*many[:-1], [0]]))


def cuts(path, text="hello", duration=1.0):
    recording = Recording("r", [AudioSource("file", [0], path)], 16_000, int(16_000 * duration), duration)
    said = SupervisionSegment("s", "r", 0.0, duration, text=text, speaker="one")
    return CutSet.from_cuts([MonoCut("c", 0.0, duration, 0, supervisions=[said], recording=recording)])


def test_data_hash_of_cuts_ignores_paths():
    known = row_identity(cuts("/a/b.wav"))
    assert row_identity(cuts("/c/d.wav")) == known
    assert row_identity(cuts("/a/b.wav", text="hullo")) != known
    assert row_identity(cuts("/a/b.wav", duration=1.5)) != known


@pytest.mark.parametrize("change", [{"start": 0.5}, {"channel": 1}])
def test_data_hash_of_cuts_covers_offsets(change):
    (cut,) = cuts("/a/b.wav", duration=2.0)
    cut.duration = 1.0
    other = replace(cut, **change)
    assert row_identity(CutSet.from_cuts([cut])) != row_identity(CutSet.from_cuts([other]))


def test_data_hash_of_mixed_cuts_covers_tracks():
    (cut,) = cuts("/a/b.wav")
    mixed = [CutSet.from_cuts([cut.mix(cut, offset_other_by=offset, snr=10)]) for offset in (0.25, 0.25, 0.5)]
    first, same, other = map(row_identity, mixed)
    assert first == same != other


def test_data_hash_distinguishes_null():
    assert row_identity(table(n=[2**53, None])) != row_identity(table(n=[2**53 + 1, None]))
    assert row_identity(table(n=[0, 1])) != row_identity(table(n=[None, 1]))
    assert row_identity(table(x=[1.0, None])) != row_identity(table(x=[1.0, float("nan")]))


def test_stream_has_no_data_hash():
    assert row_identity(table(input_ids=ROWS).to_iterable_dataset()) is None
