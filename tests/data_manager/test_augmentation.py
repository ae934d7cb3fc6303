"""Augmentation of cuts: what is drawn depends on (seed, epoch, cut) alone; signal-to-noise ratio, rooms, volume and tempo."""

import numpy as np
import pytest
import soundfile
import torch

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import GlobalConfig
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.speech.augment import Augmenter, TimeStretch
from data_manager.speech.augmentation_types import AugmentationConfig
from data_manager.speech.own.types import AudioTableDatasetConfig
from data_manager.speech.types import LhotseDatasetConfig
from model_factory.yaml_config.errors import ConfigError
from tests.data_manager.own_corpora import RATE, wav
from tests.data_manager.speech_cases import load

ALWAYS = {"probability": 1.0}
ALL = {
    "noise": {"dataset": "noise", "snr": [0.0, 10.0]},
    "reverb": {"dataset": "noise"},
    "volume": {},
    "tempo": {},
}


def table(folder, name, files, **more):
    """Config of a table in the folder that lists audio files."""
    (folder / f"{name}.csv").write_text("audio\n" + "".join(f"{path.relative_to(folder)}\n" for path in files))
    shared = GlobalConfig(corpus_dir=folder, output_dir=folder / "manifests")
    return AudioTableDatasetConfig(name=name, data_files={"all": folder / f"{name}.csv"}, global_config=shared, **more)


@pytest.fixture
def make(tmp_path):
    """A function that builds a config of three recordings with an augmentation, and noise shorter and longer than these."""
    files = [wav(tmp_path / f"r{index}.wav", 0.1 + 0.05 * index, seed=index) for index in range(3)]
    lengths = {"short": 0.03, "long": 0.5}
    sounds = [wav(tmp_path / "n" / f"{name}.wav", seconds, rate=8000, seed=9) for name, seconds in lengths.items()]
    noise = table(tmp_path, "noise", sounds)

    def config(augmentation, **more):
        return table(tmp_path, "speech", files, augmentation=augmentation, entries=(noise,), **more)

    return config


def heard(change, cuts, epoch=0):
    """Return the samples of each cut in an epoch."""
    return [change(cut, epoch).load_audio() for cut in cuts]


def test_draws_depend_on_seed_epoch_and_cut_alone(make):
    config = make(ALL)
    cuts = list(load(config)["all"])
    change = DatasetManager.augmenter(config, 3)
    first, second = heard(change, cuts), heard(change, cuts, 1)
    again = heard(DatasetManager.augmenter(config, 3), cuts[::-1])[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not any(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert not np.array_equal(first[0], DatasetManager.augmenter(config, 4)(cuts[0], 0).load_audio())
    for cut in cuts:
        changed = change(cut, 0)
        assert changed.id == cut.id
        assert changed.num_samples == changed.load_audio().shape[1]
        assert cut.recording.transforms is None  # the original is as it was


def test_batches_do_not_depend_on_workers_and_differ_by_epoch(make):
    def sums(loading, workers):
        config = make({**ALL, "noise": {**ALL["noise"], **ALWAYS}}, loading=loading)
        loader = DatasetManager.create_dataloader(
            load(config)["all"], config, batch_size=2, shuffle=True, num_workers=workers, augment=True
        )
        return [sorted(float(batch["features"].sum()) for batch in loader) for _ in range(2)]

    for loading in ({}, {"max_duration": 0.5, "num_buckets": 2}):
        alone = sums(loading, 0)
        assert alone == sums(loading, 1)
        assert alone[0] != alone[1]


def test_loader_without_augment_reads_the_original(make):
    config, plain = make(ALL), make(None)
    loaders = [DatasetManager.create_dataloader(load(c)["all"], c, batch_size=1) for c in (config, plain)]
    for one, other in zip(*loaders, strict=True):
        assert torch.equal(one["features"], other["features"])


@pytest.mark.parametrize("snr", [-5.0, 20.0])
def test_noise_has_the_ratio_that_is_asked_for(make, snr):
    config = make({"noise": {"dataset": "noise", "snr": [snr, snr], **ALWAYS}})
    change = DatasetManager.augmenter(config)
    for cut in load(config)["all"]:
        for epoch in range(4):
            clean, noisy = cut.load_audio(), change(cut, epoch).load_audio()
            assert noisy.shape == clean.shape
            found = 10 * np.log10((clean**2).mean() / ((noisy - clean) ** 2).mean())
            assert found == pytest.approx(snr, abs=0.5)


def test_room_is_convolved_and_keeps_energy(tmp_path):
    echo = np.zeros(800)
    echo[[0, 400]] = 1.0, 0.5
    soundfile.write(tmp_path / "room.wav", echo, RATE)
    room, files = table(tmp_path, "noise", [tmp_path / "room.wav"]), [wav(tmp_path / "r0.wav", 0.1)]
    config = table(tmp_path, "s", files, augmentation={"reverb": {"dataset": "noise", **ALWAYS}}, entries=(room,))
    (cut,) = load(config)["all"]
    (dry,), (wet,) = cut.load_audio(), DatasetManager.augmenter(config)(cut, 0).load_audio()
    expected = dry + 0.5 * np.concatenate([np.zeros(400), dry[:-400]])
    expected *= np.sqrt((dry**2).sum() / (expected**2).sum())
    np.testing.assert_allclose(wet, expected, atol=2e-3)


def test_volume_is_a_factor_in_the_range(make):
    change, config = Augmenter(AugmentationConfig(volume={"range": [0.25, 4.0]})), make(None)
    cut = next(iter(load(config)["all"]))
    (clean,) = cut.load_audio()
    factors = [float((change(cut, epoch).load_audio()[0] / clean).mean()) for epoch in range(30)]
    assert 0.25 <= min(factors) < 0.6
    assert 1.7 < max(factors) <= 4


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_tempo_keeps_pitch_and_loudness(factor):
    time = np.arange(RATE // 2) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    (found,) = TimeStretch(factor)(tone[None], RATE)
    assert len(found) == round(len(tone) / factor)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert spectrum.argmax() * RATE / len(found) == pytest.approx(440, abs=3)
    assert (found**2).mean() == pytest.approx((tone**2).mean(), rel=0.02)
    if factor == 1:
        np.testing.assert_allclose(found, tone, atol=1e-6)
    assert TimeStretch(factor)(np.zeros((2, 5), np.float32), 8000).shape == (2, round(5 / factor + 1e-9))


def test_tempo_scales_the_segments(make):
    config = make(None)
    cut = next(iter(load(config)["all"]))
    changed = Augmenter(AugmentationConfig(tempo={"range": [2.0, 2.0]}))(cut, 0)
    assert (changed.duration, changed.supervisions[0].duration) == (0.05, 0.05)
    assert changed.load_audio().shape == (1, 800)


def test_probability_is_the_share_of_cuts_and_shifts_no_other_draw(make):
    config = make(None)
    cut = next(iter(load(config)["all"]))
    alone = Augmenter(AugmentationConfig(volume={"probability": 0.25}))
    both = Augmenter(AugmentationConfig(volume={"probability": 0.25}, tempo={"range": [1.0, 1.0]}))
    changed = [bool(alone(cut, epoch).recording.transforms) for epoch in range(400)]
    assert 0.17 < np.mean(changed) < 0.33
    assert changed == [len(both(cut, epoch).recording.transforms) == 2 for epoch in range(400)]


def test_cut_of_features_alone_is_refused(make):
    config = make(None, features={"storage": "numpy"})
    cut = next(iter(load(config)["all"]))
    cut.recording = None
    with pytest.raises(DataError, match="no recording, only stored features"):
        Augmenter(AugmentationConfig(volume={}))(cut, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{noise: {dataset: nose}}", "no other entry has the name 'nose'; did you mean 'noise'?"),
        ("{noise: {dataset: mine}}", "no other entry has the name 'mine'"),
        ("{noise: {dataset: text}}", "'text' has source embedded, which is not one speech corpus"),
        ("{noise: {dataset: noise, snr: [20, 5]}}", "must be two numbers, the lowest and the highest"),
        ("{reverb: {}}", "missing key 'dataset'"),
        ("{}", "augmentation changes nothing"),
        ("{volumes: {}}", "did you mean 'volume'?"),
    ],
)
def test_augmentation_of_a_file_is_checked(tmp_path, line, message):
    (tmp_path / "x.yml").write_text(
        "datasets:\n"
        f"  - {{name: mine, source: kaldi, data_files: {{train: a}}, augmentation: {line}}}\n"
        "  - {name: noise, source: audio_table, data_files: {all: b.csv}}\n"
        "  - {name: text, source: embedded}\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse_dataset_configs(tmp_path / "x.yml")
    assert message in str(caught.value)
    assert "x.yml:2:" in str(caught.value)


def test_augmentation_of_a_config_names_what_does_not_fit(make):
    with pytest.raises(ValueError, match="features are stored before it"):
        make(ALL, features={"storage": "numpy"})
    with pytest.raises(DataError, match="its entries must hold the config of 'noise'"):
        DatasetManager.augmenter(LhotseDatasetConfig(name="yesno", augmentation={"noise": {"dataset": "noise"}}))
    with pytest.raises(DataError, match="has no split 'music'; its splits are all"):
        DatasetManager.augmenter(make({"noise": {"dataset": "noise", "splits": ["music"]}}))
