"""Transforms of cuts (windows, subsets, speed perturbation, resampling) and speech mixtures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.errors import DataError
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.mixture import cuts_per_epoch, interleave
from data_manager.speech.mixture_types import SpeechMixtureConfig
from tests.data_manager.corpora import librispeech_part, yesno
from tests.data_manager.speech_cases import batches, config_of, load


@pytest.fixture
def folder(tmp_path):
    """Folder with two parts of LibriSpeech, and yesno."""
    root = tmp_path / "data" / "librispeech"
    librispeech_part(root, "train-clean-5", {f"T{index}": 0.2 + 0.1 * index for index in range(4)})
    librispeech_part(root, "dev-clean", {"D0": 0.5, "D1": 0.51})
    yesno(tmp_path / "data" / "yesno")
    return tmp_path


def lengths(cuts):
    return [round(cut.duration, 3) for cut in cuts]


def test_fixed_windows(folder):
    config = config_of(folder, windows={"seconds": 0.25})
    cuts = load(config)["dev-clean"]
    assert lengths(cuts) == [0.25, 0.25, 0.25, 0.25]
    assert len({cut.id for cut in cuts}) == 4
    assert all(len(batch["text"]) > 0 for batch in batches(config, "dev-clean"))
    short, crossed, *_ = (note for note in get_speech_corpus(config).notes if "dev-clean" in note)
    assert crossed.startswith("dev-clean: 4 windows contain text that extends past their edge")
    assert short.startswith("dev-clean: 1 windows shorter than a frame are skipped")


def test_overlapping_windows(folder):
    cuts = load(config_of(folder, windows={"seconds": 0.2, "hop": 0.1}))["train-clean-5"]
    assert lengths(cuts)[:3] == [0.2, 0.2, 0.2]
    assert [round(cut.start, 3) for cut in cuts][1:3] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ({"seconds": 0.2}, [0.2, 0.2, 0.1]),
        ({"seconds": 0.2, "tail": "drop"}, [0.2, 0.2]),
        ({"seconds": 0.2, "tail": "join"}, [0.2, 0.3]),
        ({"seconds": 0.2, "tail": "drop", "min_tail": 0.1}, [0.2, 0.2, 0.1]),
        ({"seconds": 0.2, "tail": "join", "min_tail": 0.15}, [0.2, 0.3]),
        ({"seconds": 0.2, "hop": 0.1, "tail": "drop"}, [0.2, 0.2, 0.2, 0.2]),
        ({"seconds": 0.3, "hop": 0.1, "tail": "join", "min_tail": 0.3}, [0.3, 0.3, 0.3]),
        ({"seconds": 0.6, "tail": "drop"}, []),
        ({"seconds": 0.6, "tail": "join"}, [0.5]),
        ({"seconds": 0.25, "tail": "drop"}, [0.25, 0.25]),
    ],
)
def test_short_tail_of_windows(windows, expected, folder):
    config = config_of(folder, windows=windows)
    cuts = [cut for cut in load(config)["dev-clean"] if cut.recording_id == "84-1-0000"]
    assert lengths(cuts) == expected
    assert not cuts or windows.get("tail") != "join" or round(cuts[-1].end, 3) == 0.5
    dropped = [note for note in get_speech_corpus(config).notes if "dev-clean" in note and "are dropped" in note]
    assert bool(dropped) == (windows.get("tail") == "drop" and "min_tail" not in windows)


def test_windows_by_supervisions(folder):
    from lhotse import SupervisionSegment

    from data_manager.speech.cuts import shape_splits

    (cut, silent) = load(config_of(folder))["dev-clean"]
    cut.supervisions = [
        SupervisionSegment(f"s{index}", cut.recording_id, start, 0.2, text=f"w{index}", speaker="a")
        for index, start in enumerate((0.0, 0.25))
    ]
    silent.supervisions = []
    notes = []
    config = config_of(folder, windows={"type": "supervisions"})
    found = list(shape_splits({"dev-clean": [cut, silent]}, config, notes)["dev-clean"])
    assert [(cut.id, round(cut.start, 2), cut.supervisions[0].text) for cut in found] == [
        ("s0", 0.0, "w0"),
        ("s1", 0.25, "w1"),
    ]
    (note,) = notes
    assert note == f"dev-clean: 1 recordings without a supervision are skipped ({silent.id})"


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ({"first": 2}, 2),
        ({"seconds": 0.6}, 2),
        ({"seconds": 0.01}, 1),
        ({"first": 1, "seconds": 9.0}, 1),
        ({"first": 9}, 4),
    ],
)
def test_speech_subsets(folder, subset, expected):
    config = config_of(folder, subset={**subset, "splits": ["train-clean-5"]})
    splits = load(config)
    assert {split: len(cuts) for split, cuts in splits.items()} == {"dev-clean": 2, "train-clean-5": expected}
    logged = [f"train-clean-5: the subset has {expected} of 4 cuts"] if expected < 4 else []
    assert get_speech_corpus(config).notes == logged


def test_speed_perturbation(folder):
    config = config_of(folder, speed_perturbation={"factors": [0.5, 2.0]}, subset={"first": 1})
    splits = load(config)
    assert lengths(splits["train-clean-5"]) == [0.2, 0.4, 0.1]
    assert lengths(splits["dev-clean"]) == [0.5]
    assert [batch["features"].shape[1] for batch in batches(config, "train-clean-5", batch_size=1)] == [20, 40, 10]


def test_speed_perturbation_needs_train_split(folder):
    parts = {"dataset_parts": ["dev-clean"]}
    with pytest.raises(DataError, match=r"no split name begins with train \(its splits are dev-clean\)"):
        load(config_of(folder, speed_perturbation={}, process_params=parts))
    config = config_of(folder, speed_perturbation={"splits": ["dev-clean"]}, process_params=parts)
    assert len(load(config)["dev-clean"]) == 6
    with pytest.raises(DataError, match="has no split 'devclean'; its splits are dev-clean"):
        load(config_of(folder, speed_perturbation={"splits": ["devclean"]}, process_params=parts))


def test_resampling(folder):
    config = config_of(folder, features={"sampling_rate": 8000})
    assert {cut.sampling_rate for cut in load(config)["dev-clean"]} == {8000}
    (batch,) = batches(config, "dev-clean")
    assert batch["feature_mask"].sum(1).tolist() == [50, 51]


def mixture(folder, **more):
    entries = (config_of(folder), config_of(folder, "yesno"))
    settings = {
        "datasets": {"librispeech": 1.0, "yesno": 3.0},
        "splits": {
            "train": {"librispeech": ["train-clean-5"], "yesno": ["train"]},
            "test": {"librispeech": ["dev-clean"], "yesno": ["test"]},
        },
        "features": {"sampling_rate": 8000},
    }
    shared = entries[0].global_config
    return SpeechMixtureConfig(name="both", global_config=shared, entries=entries, **{**settings, **more})


@pytest.mark.parametrize(("stop", "yes"), [("first_exhausted", 12), ("all_exhausted", 30)])
def test_speech_mixture_weights(folder, stop, yes):
    config = mixture(folder, stop=stop)
    splits = load(config)
    own = [cut.id for cut in splits["train"] if cut.id.startswith("84-")]
    assert len(splits["train"]) - len(own) == yes
    assert len(own) == yes // 3 if stop == "first_exhausted" else 10
    assert len({cut.id for cut in splits["train"]}) == len(splits["train"])
    assert len(splits["test"]) == 2 + 30
    assert [cut.id for cut in load(config)["train"]] == [cut.id for cut in splits["train"]]
    assert any("because of its weight" in note for note in get_speech_corpus(config).notes)
    assert batches(config, "train", batch_size=8)[0]["features"].shape[0] == 8


def test_speech_mixture_sampling_rates_differ(folder):
    with pytest.raises(
        DataError, match=r"audio of 8000 Hz and 16000 Hz.*; set features\.sampling_rate, for example to 8000"
    ):
        load(mixture(folder, features={}))


def test_speech_mixture_unknown_split(folder):
    with pytest.raises(DataError, match="corpus 'yesno' has no split 'dev'; its splits are test, train"):
        load(mixture(folder, splits={"train": {"yesno": ["dev"]}}))


def test_speech_mixture_invalid_parts(folder):
    with pytest.raises(ValueError, match="no other entry has the name 'yesn'"):
        mixture(folder, datasets={"librispeech": 1, "yesn": 1}, splits=None)
    with pytest.raises(ValueError, match="'timit' is not part of the mixture"):
        mixture(folder, splits={"train": {"timit": ["TRAIN"]}})
    with pytest.raises(ValueError, match="must have at least two entries"):
        mixture(folder, datasets={"librispeech": 1})


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.1, 10)), min_size=2, max_size=4))
def test_speech_mixture_cuts_per_epoch_follow_weights(parts):
    sizes, weights = zip(*parts, strict=True)
    few, many = (cuts_per_epoch(sizes, weights, stop) for stop in ("first_exhausted", "all_exhausted"))
    assert all(1 <= count <= size for count, size in zip(few, sizes, strict=True))
    assert all(count >= size for count, size in zip(many, sizes, strict=True))
    assert any(count == size for count, size in zip(few, sizes, strict=True))
    for counts in (few, many):
        rounds = max(count / weight for count, weight in zip(counts, weights, strict=True))
        # a part with a share below one cut gets one
        assert all(count >= rounds * w - 1 / min(weights) * w - 1 for count, w in zip(counts, weights, strict=True))


def test_speech_mixture_interleaves_evenly(folder):
    splits = load(config_of(folder, "yesno"))
    both = [cut in splits["train"] for cut in interleave([list(splits["train"])[:10], list(splits["test"])], seed=0)]
    assert len(both) == 40
    assert max(len(run) for run in "".join("x" if one else " " for one in both).split("x")) <= 7
