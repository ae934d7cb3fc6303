"""Bad audio files, missing decoder programs, channels, and stored features of another width."""

import subprocess

import numpy as np
import pytest
import soundfile
import torch

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.speech import audio
from data_manager.speech.corpus import get_speech_corpus
from tests.data_manager.corpora import RATE, librispeech_part
from tests.data_manager.speech_cases import batches, config_of, load

GOOD = np.random.default_rng(0).normal(0, 0.1, 800)


@pytest.fixture
def folder(tmp_path):
    """Folder with a LibriSpeech part of three utterances of 50 ms."""
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.05, "B": 0.05, "C": 0.05})
    return tmp_path


def path_of(folder, index):
    (path,) = (folder / "data").rglob(f"*-000{index}.flac")
    return path


def write(path, samples, rate=RATE, subtype="FLOAT"):
    """Write a WAV file; libsndfile and lhotse recognise it whatever its suffix."""
    soundfile.write(path, samples, rate, format="WAV", subtype=subtype)


def _replace(value):
    samples = GOOD.copy()
    samples[100] = value
    return lambda path: write(path, samples)


def _cut_off(path):
    write(path, GOOD, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + len(GOOD)])


def _cut_off_sphere(path):
    header = f"NIST_1A\n   1024\nsample_count -i {len(GOOD)}\nsample_n_bytes -i 2\nchannel_count -i 1\n"
    header += f"sample_byte_format -s2 01\nsample_rate -i {RATE}\nsample_coding -s3 pcm\nend_head\n"
    path.write_bytes(header.encode().ljust(1024) + (GOOD * 32767).astype("<i2").tobytes()[: len(GOOD)])


BAD = {
    "nan": (_replace(np.nan), "it has samples that are NaN or infinite"),
    "inf": (_replace(np.inf), "it has samples that are NaN or infinite"),
    "huge": (_replace(1e38), r"it has samples of up to 1e\+38, and audio lies in \[-1, 1\]"),
    "empty": (lambda path: write(path, GOOD[:0]), "it has no samples"),
    "half": (_cut_off, "it is cut off: its header promises 1,644 bytes, and it has 844"),
    "half sphere": (_cut_off_sphere, "it is cut off: its header promises 2,624 bytes, and it has 1,824"),
    "no bytes": (lambda path: path.write_bytes(b""), ""),
}


@pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD)
def test_bad_audio_is_named_or_dropped(damage, reason, folder):
    damage(path_of(folder, 1))
    with pytest.raises(DataError, match=rf"(?s)84-1-0001\.flac.*{reason}.*bad_audio: drop"):
        batches(config_of(folder), "dev-clean")
    config = config_of(folder, loading={"bad_audio": "drop"})
    (batch,) = batches(config, "dev-clean")
    assert batch["text"] == ["A", "C"]
    assert torch.isfinite(batch["features"]).all()
    (note,) = get_speech_corpus(config).notes
    assert note.startswith("dev-clean: audio of 84-1-0001 cannot be read from ")


@pytest.mark.parametrize("scale", [1.0, 32_768.0])
def test_audio_of_any_usual_scale_is_read(scale, folder):
    write(path_of(folder, 1), GOOD * scale)
    (batch,) = batches(config_of(folder, loading={"bad_audio": "drop"}), "dev-clean")
    assert batch["text"] == ["A", "B", "C"]


def test_unknown_length_in_a_header_is_no_fault(folder):
    """A program that writes to a pipe does not know the length yet."""
    write(path_of(folder, 1), GOOD, subtype="PCM_16")
    content = bytearray(path_of(folder, 1).read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path_of(folder, 1).write_bytes(content)
    (batch,) = batches(config_of(folder, loading={"bad_audio": "drop"}), "dev-clean")
    assert batch["text"] == ["A", "B", "C"]


SHORTEN = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(1100)
FORMATS = {"sph2pipe": SHORTEN, "ffmpeg": b"\0\0\0\x20ftypM4A " + bytes(100)}


@pytest.mark.parametrize("program", FORMATS)
@pytest.mark.parametrize("bad_audio", ["error", "drop"])
def test_missing_decoder_is_named(program, bad_audio, folder, monkeypatch):
    monkeypatch.setattr(audio.shutil, "which", lambda name: None)
    path_of(folder, 1).write_bytes(FORMATS[program])
    with pytest.raises(DataError, match=f"needs the program {program}, which is not installed") as caught:
        load(config_of(folder, loading={"bad_audio": bad_audio}))
    assert "84-1-0001.flac" in str(caught.value)
    assert "bad_audio" not in str(caught.value)


def test_damaged_file_is_not_blamed_on_a_decoder_that_is_there(folder, monkeypatch):
    monkeypatch.setattr(audio.shutil, "which", lambda name: f"/usr/bin/{name}")
    path_of(folder, 1).write_bytes(FORMATS["ffmpeg"])
    with pytest.raises(DataError, match="bad_audio: drop"):
        load(config_of(folder))


def test_missing_program_of_a_command_is_named():
    absent = FileNotFoundError(2, "No such file or directory", "no-such-decoder")
    failed = subprocess.CalledProcessError(127, "no-such-decoder -x a.sph")
    for error, files in ((absent, ["a.wav"]), (failed, []), (OSError("no data"), ["no-such-decoder -f wav a.sph |"])):
        found = audio.missing_decoder("a", files, error)
        assert "needs the program no-such-decoder, which is not installed" in str(found)
    for name in ("/absent/a.wav", "a.wav"):
        assert audio.missing_decoder("a", [name], FileNotFoundError(2, "No such file", name)) is None


def stereo(folder, *, same=False):
    for index in range(3):
        left = soundfile.read(path_of(folder, index))[0]
        soundfile.write(path_of(folder, index), np.stack([left, left if same else -left / 2], 1), RATE)


@pytest.mark.parametrize("storage", ["on_the_fly", "numpy"])
def test_channel_selects_or_averages(storage, folder):
    (alone,) = batches(config_of(folder), "dev-clean")
    stereo(folder)
    for channel, factor in ((0, 1.0), (1, -0.5), ("mean", 0.25)):
        (batch,) = batches(config_of(folder, features={"channel": channel, "storage": storage}), "dev-clean")
        assert batch["text"] == ["A", "B", "C"]
        expected = alone["features"] + 2 * np.log(abs(factor))  # log energies
        torch.testing.assert_close(batch["features"], expected, atol=0.02, rtol=0)


def test_each_channel_is_a_cut(folder):
    stereo(folder)
    cuts = load(config_of(folder, features={"channel": "each"}))["dev-clean"]
    assert [(cut.id, cut.supervisions[0].text) for cut in cuts][:2] == [
        ("84-1-0000-channel0", "A"),
        ("84-1-0000-channel1", "A"),
    ]
    assert len(list(cuts)) == 6
    assert len({s.id for cut in cuts for s in cut.supervisions}) == 6


def test_segments_of_a_channel_stay_with_it(folder):
    from lhotse import CutSet, SupervisionSegment

    from data_manager.speech.cuts import shape_splits

    stereo(folder)
    first = load(config_of(folder, features={"channel": "mean"}))["dev-clean"][0]
    first.supervisions = [
        SupervisionSegment(f"s{channel}", first.recording_id, 0.0, 0.05, channel=channel, text=f"side {channel}")
        for channel in (0, 1)
    ]
    for channel, texts in ((1, ["side 1"]), ("each", ["side 0", "side 1"])):
        config = config_of(folder, features={"channel": channel})
        cuts = shape_splits({"dev-clean": CutSet.from_cuts([first])}, config, [])["dev-clean"]
        assert [s.text for cut in cuts for s in cut.supervisions] == texts


def test_channels_that_differ_need_a_choice(folder):
    stereo(folder)
    with pytest.raises(
        DataError, match=r"84-1-0000 has 2 channels that differ; set features\.channel to the number of"
    ):
        batches(config_of(folder), "dev-clean")
    with pytest.raises(DataError, match="recording 84-1-0000 of 'librispeech' has no channel 2, only 0, 1"):
        load(config_of(folder, features={"channel": 2}))


def test_equal_channels_need_no_choice(folder):
    (alone,) = batches(config_of(folder), "dev-clean")
    stereo(folder, same=True)
    (batch,) = batches(config_of(folder), "dev-clean")
    torch.testing.assert_close(batch["features"], alone["features"])
    assert len(load(config_of(folder, features={"channel": 0}))["dev-clean"]) == 3


def test_stored_features_of_another_width_are_an_error(folder):
    cuts = load(config_of(folder, features={"storage": "numpy", "num_mel_bins": 40}))["dev-clean"]
    config = config_of(folder)
    with pytest.raises(DataError, match=r"has stored features of width 40 in .*, and fbank features .* have width 80"):
        next(iter(DatasetManager.create_dataloader(cuts, config, batch_size=3)))
    same = config_of(folder, features={"num_mel_bins": 40})
    assert next(iter(DatasetManager.create_dataloader(cuts, same, batch_size=3)))["features"].shape[-1] == 40
