"""Speech features: equal to lhotse's, stored and computed on the fly, cached and recomputed."""

import pytest
import torch

from data_manager.errors import DataError
from data_manager.speech import features
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.features import FrameReader
from data_manager.speech_settings import FeaturesConfig
from tests.data_manager.corpora import RATE, librispeech_part
from tests.data_manager.speech_cases import batches, config_of, load


@pytest.fixture
def folder(tmp_path):
    """Folder with one part of LibriSpeech."""
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.3, "B": 0.5, "C": 0.4})
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """Collect the ids of the cuts whose frames are computed and stored."""
    ids = []
    original = features._FrameDataset.__getitem__

    def counted(self, index):
        ids.append(self.cuts[index].id)
        return original(self, index)

    monkeypatch.setattr(features._FrameDataset, "__getitem__", counted)
    return ids


@pytest.mark.parametrize("kind", ["mfcc", "spectrogram"])
def test_mfcc_and_spectrogram_match_lhotse(folder, kind):
    import lhotse

    (batch,) = batches(config_of(folder, features={"type": kind}), "dev-clean")
    own = {"mfcc": lhotse.Mfcc, "spectrogram": lhotse.Spectrogram}[kind]()
    cut = load(config_of(folder))["dev-clean"][0]
    expected = torch.as_tensor(own.extract(cut.load_audio(), RATE))
    assert batch["features"].shape == (3, 50, {"mfcc": 13, "spectrogram": 257}[kind])
    torch.testing.assert_close(batch["features"][0, :30], expected)


@pytest.mark.parametrize(("storage", "tolerance"), [("numpy", 0.0), ("lilcom_chunky", 2**-5)])
@pytest.mark.parametrize("workers", [0, 2])
def test_stored_features_match_on_the_fly(folder, computed, storage, tolerance, workers):
    more = {"speed_perturbation": {"factors": [1.1], "splits": ["dev-clean"]}, "windows": {"seconds": 0.3}}
    (expected,) = batches(config_of(folder, **more), "dev-clean", batch_size=20)
    config = config_of(folder, features={"storage": storage}, loading={"num_workers": workers}, **more)
    (batch,) = batches(config, "dev-clean", batch_size=20, num_workers=0)
    torch.testing.assert_close(batch["features"], expected["features"], atol=tolerance, rtol=0)
    assert torch.equal(batch["feature_mask"], expected["feature_mask"])
    assert batch["text"] == expected["text"]
    assert all(cut.has_features for cut in load(config)["dev-clean"])
    assert len(get_speech_corpus(config).folders) == 2


def test_stored_features_cached_until_inputs_change(folder, computed):
    config = config_of(folder, features={"storage": "numpy"})
    load(config)
    load(config)
    assert len(computed) == 3
    load(config_of(folder, features={"storage": "numpy", "num_mel_bins": 40}))
    assert len(computed) == 6
    librispeech_part(folder / "data" / "librispeech", "dev-clean", {"D": 0.2}, chapter="2")
    load(config)
    assert len(computed) == 10


def test_stored_features_resume_at_interrupted_split(folder, computed, monkeypatch):
    librispeech_part(folder / "data" / "librispeech", "test-clean", {"E": 0.2, "F": 0.2}, speaker="90")
    config = config_of(folder, features={"storage": "lilcom_chunky"})
    write = features._write_features

    def interrupted(*given, split, **more):
        notes = write(*given, split=split, **more)
        if split == "test-clean":
            raise KeyboardInterrupt
        return notes

    with monkeypatch.context() as patch:
        patch.setattr(features, "_write_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(config)
    computed.clear()
    assert {split: len(cuts) for split, cuts in load(config).items()} == {"dev-clean": 3, "test-clean": 2}
    assert computed == ["90-1-0000", "90-1-0001"]
    assert not list((folder / "manifests").rglob("*.partial"))


def test_damaged_feature_storage_is_named(folder):
    config = config_of(folder, features={"storage": "numpy"})
    load(config)
    next((folder / "manifests").rglob("*.npy")).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"features of cut 84-1-\d+ cannot be read from .*/frames: .*remove that folder"
    ):
        batches(config, "dev-clean")


def test_stored_features_average_channels(folder):
    import soundfile

    for path in (folder / "data").rglob("*.flac"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, [(value, -value / 2) for value in samples], rate)
    (expected,) = batches(config_of(folder, features={"channel": "mean"}), "dev-clean")
    (batch,) = batches(config_of(folder, features={"storage": "numpy", "channel": "mean"}), "dev-clean")
    assert torch.equal(batch["features"], expected["features"])


def test_stored_features_of_mixed_cut(folder):
    from data_manager.speech.features import store_features

    first, second, _ = load(config_of(folder))["dev-clean"]
    config = config_of(folder, features={"storage": "numpy"})
    mixed = first.mix(second, offset_other_by=0.1, snr=5)
    expected = FrameReader(config.features)(mixed)
    (place,) = (folder / "manifests").glob("librispeech/[0-9a-f]*")
    _, stored = store_features({"dev-clean": [mixed]}, config, place)
    (cut,) = stored["dev-clean"]
    assert (cut.sampling_rate, [one.text for one in cut.supervisions]) == (RATE, ["A", "B"])
    assert torch.equal(FrameReader(config.features)(cut), expected)


def test_dither_is_reproducible_and_keeps_rng_state(folder):
    config = config_of(folder, features={"dither": 0.01})
    (first,) = batches(config, "dev-clean")
    (again,) = batches(config, "dev-clean", num_workers=1)
    assert torch.equal(first["features"], again["features"])
    cut = load(config)["dev-clean"][0]
    assert not torch.equal(first["features"][0, :30], FrameReader(FeaturesConfig())(cut))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(FrameReader(config.features)(cut), first["features"][0, :30])
    assert torch.equal(torch.rand(2), expected)


def test_audio_shorter_than_frame_is_named(tmp_path):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.0001})
    with pytest.raises(DataError, match=r"fbank features of cut 84-1-0000 \(6\.25e-05 s\)"):
        batches(config_of(tmp_path), "dev-clean")
