"""Speech features: equal to lhotse's, stored and computed on the fly, cached and recomputed."""

import math

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


LHOTSE_SETTINGS = {
    "snip_edges": True,
    "window_type": "hamming",
    "preemph_coeff": 0.5,
    "remove_dc_offset": False,
    "round_to_power_of_two": False,
    "use_energy": True,
}


@pytest.mark.parametrize("kind", ["fbank", "spectrogram"])
@pytest.mark.parametrize("key", LHOTSE_SETTINGS)
def test_setting_reaches_the_extractor(key, kind):
    import lhotse

    samples = torch.sin(torch.arange(RATE // 4) ** 1.3).numpy()[None] * 0.1 + 0.2
    value = {key: LHOTSE_SETTINGS[key]}
    types = {"fbank": (lhotse.Fbank, lhotse.FbankConfig), "spectrogram": (lhotse.Spectrogram, lhotse.SpectrogramConfig)}
    extractor, config = types[kind]
    expected = extractor(config(**value)).extract(samples, RATE)
    settings = FeaturesConfig(type=kind, **value)
    found = features.make_extractor(settings, RATE).extract(samples, RATE)
    default = features.make_extractor(FeaturesConfig(type=kind), RATE).extract(samples, RATE)
    assert found.shape[1] == settings.width(RATE)
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=0)
    assert found.shape != default.shape or (found != default).any()


def test_mfcc_settings_reach_the_extractor():
    import lhotse

    samples = torch.sin(torch.arange(RATE // 4) ** 1.3).numpy()[None] * 0.1
    samples[:, :2000] = 0
    own = FeaturesConfig(type="mfcc", cepstral_lifter=5, use_energy=True, energy_floor=0.001)
    found = features.make_extractor(own, RATE).extract(samples, RATE)
    expected = lhotse.Mfcc(lhotse.MfccConfig(cepstral_lifter=5)).extract(samples, RATE)
    energy = lhotse.Fbank(lhotse.FbankConfig(use_energy=True, energy_floor=0.001)).extract(samples, RATE)[:, 0]
    assert found.shape[1] == own.width() == 13
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 0], energy, rtol=0, atol=0)
    assert energy[0] == pytest.approx(math.log(0.001))


def test_frames_of_odd_length_have_no_mel_bins(folder):
    settings = FeaturesConfig(round_to_power_of_two=False)
    with pytest.raises(DataError, match=r"frames of 275 samples, an odd number, have no mel bins .* at 11025 Hz"):
        features.make_extractor(settings, 11_025)
    assert FeaturesConfig(type="spectrogram", round_to_power_of_two=False).width(11_025) == 138


@pytest.mark.parametrize("storage", ["numpy", "lilcom_chunky"])
def test_stored_features_with_snipped_edges_match_on_the_fly(folder, storage):
    (expected,) = batches(config_of(folder, features={"snip_edges": True}), "dev-clean")
    (batch,) = batches(config_of(folder, features={"snip_edges": True, "storage": storage}), "dev-clean")
    assert expected["features"].shape[1] == 48
    torch.testing.assert_close(batch["features"], expected["features"], rtol=0, atol=0 if storage == "numpy" else 2**-5)
    assert torch.equal(batch["feature_mask"], expected["feature_mask"])


@pytest.mark.parametrize("key", ["preemph_coeff", "window_type", "use_energy"])
def test_stored_features_are_computed_again_for_another_setting(folder, computed, key):
    (first,) = batches(config_of(folder, features={"storage": "numpy"}), "dev-clean")
    (again,) = batches(config_of(folder, features={"storage": "numpy", key: LHOTSE_SETTINGS[key]}), "dev-clean")
    assert len(computed) == 6
    assert first["features"].shape != again["features"].shape or not torch.equal(first["features"], again["features"])


def test_speaker_targets_are_of_the_centres_of_frames(folder):
    (batch,) = batches(config_of(folder, features={"snip_edges": True}, loading={"speakers": True}), "dev-clean")
    assert batch["speaker_activity"].shape[:2] == batch["features"].shape[:2]
    assert FeaturesConfig().first_centre == 0.005
    assert FeaturesConfig(snip_edges=True).first_centre == 0.0125


def test_unknown_tokens_of_transcripts_are_counted(tmp_path):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.3, "B Ä": 0.3})
    config = config_of(tmp_path, tokenizer={"type": "smiles"})
    load(config)
    (note,) = get_speech_corpus(config).notes
    assert note == "dev-clean: 2 unknown tokens, whose text is lost, in 1 text (84-1-0001)"


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
