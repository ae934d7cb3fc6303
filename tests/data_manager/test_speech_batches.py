"""Speech batches: limited in seconds, with labels, with diarization targets, as encoder input."""

import pytest
import torch

from data_manager.speech.loader import speaker_targets
from tests.data_manager.corpora import librispeech_part
from tests.data_manager.speech_cases import batches, config_of, load


@pytest.fixture
def folder(tmp_path):
    """Twenty utterances of 0.2 to 1.15 seconds."""
    lengths = {f"WORD {index}": 0.2 + 0.05 * index for index in range(20)}
    librispeech_part(tmp_path / "data" / "librispeech", "train-clean-5", lengths)
    return tmp_path


def texts(found):
    return [batch["text"] for batch in found]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("buckets", [1, 4, 10, 500])
def test_speech_batches_respect_max_duration(folder, buckets, shuffle):
    config = config_of(folder, loading={"max_duration": 3.0, "num_buckets": buckets})
    found = batches(config, "train-clean-5", shuffle=shuffle)
    assert sorted(text for batch in found for text in batch["text"]) == sorted(f"WORD {index}" for index in range(20))
    # one frame per 10 ms, including padding
    assert all(batch["feature_mask"].numel() <= 300 for batch in found)
    if buckets == 4:
        assert len(found) < 12
        filled = sum(int(batch["feature_mask"].sum()) for batch in found)
        assert filled / sum(batch["feature_mask"].numel() for batch in found) > 0.8


def test_speech_shuffle_differs_by_epoch_and_seed(folder):
    from data_manager.data_manager import DatasetManager

    config = config_of(folder, loading={"max_duration": 2.0, "num_buckets": 2})
    cuts = load(config)["train-clean-5"]

    def two_epochs(seed, workers):
        loader = DatasetManager.create_dataloader(
            cuts, config, batch_size=1, shuffle=True, seed=seed, num_workers=workers
        )
        return texts(loader), texts(loader)

    first, second = two_epochs(0, 0)
    assert first != second
    assert two_epochs(0, 2) == (first, second)
    assert two_epochs(1, 0)[0] != first


def test_cut_longer_than_max_duration_is_single_batch(folder, caplog):
    found = batches(config_of(folder, loading={"max_duration": 1.0}), "train-clean-5")
    assert sum(len(batch["text"]) for batch in found) == 20
    assert "3 cuts are longer than max_duration 1 s; each becomes a single-cut batch" in caplog.text


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_speech_loader_with_more_workers_than_cuts(tmp_path):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.2})
    for loading in ({"num_workers": 3}, {"num_workers": 3, "max_duration": 10.0}):
        (batch,) = batches(config_of(tmp_path, loading=loading), "dev-clean")
        assert batch["text"] == ["A"]


def test_speech_labels_and_mask(folder):
    from data_manager.data_manager import DatasetManager

    config = config_of(folder, tokenizer={"type": "characters"}, subset={"first": 11})
    tokenizer = DatasetManager.tokenizer(config)
    (batch,) = batches(config, "train-clean-5", batch_size=11)
    assert batch["labels"].shape == batch["label_mask"].shape == (11, len("WORD 10"))
    assert batch["labels"].dtype == torch.int64
    for row, mask, text in zip(batch["labels"], batch["label_mask"], batch["text"], strict=True):
        assert tokenizer.decode(row[mask].tolist()) == text
        assert (row[~mask] == tokenizer.pad_token_id).all()
    assert "labels" not in batches(config_of(folder), "train-clean-5")[0]


def test_speaker_targets(folder):
    from lhotse import SupervisionSegment

    first, second = list(load(config_of(folder))["train-clean-5"])[:2]
    spoken = [("b", 0.0, 0.1), ("a", 0.05, 0.1), ("b", 0.18, 9.0), ("c", 5.0, 1.0)]
    first.supervisions = [
        SupervisionSegment(f"s{index}", first.recording_id, start, length, speaker=speaker)
        for index, (speaker, start, length) in enumerate(spoken)
    ]
    second.supervisions = []
    found = speaker_targets([first, second], 25, 0.01)
    assert found["speakers"] == [["b", "a"], []]
    assert found["segments"][0] == [("b", 0.0, 0.1), ("a", 0.05, pytest.approx(0.15)), ("b", 0.18, 0.2)]
    activity = found["speaker_activity"]
    assert activity.shape == (2, 25, 2)
    assert activity[0, :, 0].nonzero().flatten().tolist() == [*range(10), 18, 19]
    assert activity[0, :, 1].nonzero().flatten().tolist() == list(range(5, 15))
    assert not activity[1].any()


def test_speaker_targets_in_batch(folder):
    batch, *_ = batches(config_of(folder, loading={"speakers": True}), "train-clean-5", num_workers=1)
    assert batch["speakers"][0] == ["84"]
    assert batch["segments"][0] == [("84", 0.0, pytest.approx(0.2))]
    assert torch.equal(batch["speaker_activity"][..., 0], batch["feature_mask"])


def test_encoder_takes_speech_batch(folder):
    from model.model_factory import create_model
    from model.parse_model_args import parse_model_config

    (folder / "model.yml").write_text(
        "model:\n  model_type: encoder\n  name: speech\n  encoder: {d_model: 16, num_layers: 1, num_heads: 2, "
        "attention_type: linear, activation: SILU, input_dim: 40}\n"
    )
    batch, *_ = batches(config_of(folder, features={"num_mel_bins": 40}), "train-clean-5")
    model = create_model(parse_model_config(folder / "model.yml")).eval()
    assert model(batch["features"], mask=batch["feature_mask"]).shape[:2] == batch["feature_mask"].shape
