"""Speech in a user's own files: lhotse manifests, Kaldi folders, tables and RTTM; their errors, and what is refused."""

import json

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.kaldi import load_kaldi_data_dir

from data_manager.dataset_types import GlobalConfig, TokenizerConfig
from data_manager.errors import DataError
from data_manager.registry import SOURCES
from data_manager.speech.augmentation_types import AugmentationConfig
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.own.types import (
    AudioTableDatasetConfig,
    CutsDatasetConfig,
    KaldiDatasetConfig,
    RttmDatasetConfig,
)
from data_manager.speech.types import SpeechCorpusConfig
from tests.data_manager.own_corpora import RATE, kaldi, manifests, wav, write_lines
from tests.data_manager.speech_cases import batches, load

TYPES = {
    "kaldi": KaldiDatasetConfig,
    "audio_table": AudioTableDatasetConfig,
    "cuts": CutsDatasetConfig,
    "rttm": RttmDatasetConfig,
}


def config_of(folder, source, files=".", **more):
    """Config of a source whose only split, train, is in the folder."""
    shared = GlobalConfig(corpus_dir=folder, output_dir=folder / "manifests")
    return TYPES[source](name="mine", data_files={"train": folder / files}, global_config=shared, **more)


def train(config):
    """Load the cuts of the split train."""
    return list(load(config)["train"])


def facts(cuts):
    """Return names, places, texts and speakers of cuts."""
    found = [(cut.id, cut.start, round(cut.duration, 6), *map(_spoken, cut.supervisions)) for cut in cuts]
    return sorted(found)


def _spoken(part):
    return part.id, part.start, round(part.duration, 6), part.text, part.speaker


@pytest.fixture
def folder(tmp_path):
    """A Kaldi folder with two recordings, a table of the same, and a segment of each."""
    for index in range(2):
        wav(tmp_path / f"r{index}.wav", 0.2 + 0.1 * index, seed=index)
    kaldi(tmp_path)
    return tmp_path


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("unit", ["utterance", "recording"])
def test_kaldi_folder_gives_the_cuts_of_lhotse(tmp_path, segments, unit, monkeypatch):
    for index in range(2):
        wav(tmp_path / f"r{index}.wav", 0.2 + 0.1 * index)
    kaldi(tmp_path, segments=segments)
    ours = train(config_of(tmp_path, "kaldi", unit=unit))
    monkeypatch.chdir(tmp_path)
    recordings, supervisions, _ = load_kaldi_data_dir(tmp_path, RATE)
    theirs = CutSet.from_manifests(recordings, supervisions)
    if unit == "utterance":
        theirs = theirs.trim_to_supervisions(keep_overlapping=False)
        assert facts(ours) == facts(theirs)
    assert [facts([cut])[0][3:] for cut in ours] == [facts([cut])[0][3:] for cut in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.load_audio(), other.load_audio())


@pytest.mark.parametrize(
    ("file", "old", "new", "place", "message"),
    [
        ("wav.scp", "r1 r1.wav", "r1", "wav.scp:2", "no words after the id"),
        ("wav.scp", "r1 r1.wav", "r0 r1.wav", "wav.scp:2", "the id 'r0' is at"),
        ("wav.scp", "r1 r1.wav", "r1 none.wav", "wav.scp:2", "there is no audio file"),
        ("wav.scp", "r1 r1.wav", "r1 ../r1.wav", "wav.scp:2", "leaves"),
        ("segments", "u2 r1", "u2 r7", "segments:3", "wav.scp has no recording 'r7'"),
        ("segments", "0.05 0.2", "0.05", "segments:3", "3 fields instead of 4"),
        ("segments", "0.05 0.2", "0.2 0.05", "segments:3", "the end 0.05 s is not after the start 0.2 s"),
        ("segments", "0.05 0.2", "nan 0.2", "segments:3", "the start 'nan' is not a number"),
        ("segments", "0.05 0.2", "0.5 0.6", "segments:3", "begins at 0.5 s"),
        ("text", "u2 A u2\n", "", "segments:3", "the file text has no line for 'u2'"),
        ("text", "u2 A", "u3 X\nu2 A", "text:3", "no utterance has the id 'u3'"),
        ("text", "u2 A u2", "u2", "text:3", "no words after the id"),
        ("utt2spk", "u2 u2-speaker\n", "", "segments:3", "the file utt2spk has no line for 'u2'"),
    ],
)
def test_invalid_kaldi_line_is_named_or_skipped(folder, file, old, new, place, message):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(DataError) as caught:
        train(config_of(folder, "kaldi"))
    assert f"{folder}/{place}: " in str(caught.value)
    assert message in str(caught.value)
    assert "on_invalid: skip" in str(caught.value)
    kept = {cut.id for cut in train(config_of(folder, "kaldi", on_invalid="skip"))}
    assert {"u0", "u1"} <= kept


def test_command_in_wav_scp_runs_only_if_allowed(folder):
    mark = folder / "ran"
    (folder / "wav.scp").write_text(f"r0 touch {mark}; cat {folder}/r0.wav |\nr1 r1.wav\n")
    for skip in ("error", "skip"):
        with pytest.raises(
            DataError, match=r"wav\.scp:1: the audio is the output of a command.*\n.*allow_commands: true"
        ):
            train(config_of(folder, "kaldi", on_invalid=skip))
    assert not mark.exists()
    cuts = train(config_of(folder, "kaldi", allow_commands=True))
    assert mark.exists()
    assert cuts[0].load_audio().shape == (1, 1600)
    with pytest.raises(DataError, match=r"wav\.scp:1: the audio is the output"):  # also with the cuts in the cache
        train(config_of(folder, "kaldi"))
    wav(folder / "a  b.wav", 0.2)
    (folder / "wav.scp").write_text("r0 a  b.wav\nr1 r1.wav\n")  # spaces as they are
    assert train(config_of(folder, "kaldi"))[0].recording.sources[0].source == f"{folder}/a  b.wav"
    (folder / "wav.scp").write_text("r0 exit 3 |\nr1 r1.wav\n")
    with pytest.raises(DataError, match=r"wav\.scp:1: the command 'exit 3' failed with 3"):
        train(config_of(folder, "kaldi", allow_commands=True))


def nested_command(path, base):
    """A command in the impulse response of a transform, which lhotse would run when it reads the audio."""
    row = json.loads((base / "cut.json").read_text())
    room = {"id": "x", "sampling_rate": RATE, "num_samples": 9, "duration": 9 / RATE}
    room["sources"] = [{"type": "command", "channels": [0], "source": "touch x"}]
    row["recording"]["transforms"] = [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": room}}]
    write_lines(path, [row])


@pytest.mark.parametrize("kind", ["command", "nested", "url", "leaves"])
def test_manifest_is_read_without_commands_and_networks(tmp_path, kind):
    manifests(tmp_path)
    (row,) = [cut.to_dict() for cut in CutSet.from_file(tmp_path / "cuts_train.jsonl.gz")]
    (tmp_path / "cut.json").write_text(json.dumps(row))
    path = tmp_path / "c.jsonl"
    source = row["recording"]["sources"][0]
    if kind == "nested":
        nested_command(path, tmp_path)
    else:
        changes = {"command": {"type": "command"}, "url": {"type": "url"}, "leaves": {"source": "../r0.wav"}}
        source.update(changes[kind])
        write_lines(path, [row])
    words = {"command": "allow_commands", "nested": "allow_commands", "url": "type 'url'", "leaves": "leaves"}
    with pytest.raises(DataError, match=rf"c\.jsonl:1: [\s\S]*{words[kind]}"):
        train(config_of(tmp_path, "cuts", "c.jsonl"))


def test_manifests_of_cuts_and_of_recordings(tmp_path):
    manifests(tmp_path)
    pair = {"recordings": "recordings_dev.jsonl.gz", "supervisions": "supervisions_dev.jsonl.gz"}
    config = config_of(tmp_path, "cuts", "cuts_train.jsonl.gz")
    both = config.model_copy(update={"data_files": {"train": config.data_files["train"], "a/b": _pair(tmp_path, pair)}})
    found = load(both)
    assert list(found) == ["train", "a/b"]
    assert facts(found["train"]) == [("c0", 0.0, 0.3, ("s0", 0.0, 0.2, "some words", None))]
    assert facts(found["a/b"]) == [("r0", 0.0, 0.3, ("s0", 0.0, 0.2, "some words", None))]
    assert np.array_equal(found["train"][0].load_audio(), found["a/b"][0].load_audio())
    alone = config_of(tmp_path, "cuts", "recordings_dev.jsonl.gz")
    assert facts(train(alone)) == [("r0", 0.0, 0.3)]


def _pair(folder, names):
    (made,) = CutsDatasetConfig(name="x", data_files={"x": names}).data_files.values()
    return made.model_copy(update={key: str(folder / name) for key, name in names.items()})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("{}", "lhotse cannot read this line"),
        ('{"id": "s", "recording_id": "r", "start": 0, "duration": 1}', "must be a MonoCut"),
        (None, "the id 'c0' is at"),
        ("negative", "duration must be greater than 0"),
    ],
)
def test_invalid_line_of_a_manifest(tmp_path, line, message):
    manifests(tmp_path)
    (row,) = [cut.to_dict() for cut in CutSet.from_file(tmp_path / "cuts_train.jsonl.gz")]
    line = json.dumps({**row, "id": "c1", "duration": -0.1}) if line == "negative" else line or json.dumps(row)
    (tmp_path / "c.jsonl").write_text(f"{json.dumps(row)}\n{line}\n")
    with pytest.raises(DataError) as caught:
        train(config_of(tmp_path, "cuts", "c.jsonl"))
    assert f"{tmp_path}/c.jsonl:2: " in str(caught.value)
    assert message in str(caught.value)
    assert len(train(config_of(tmp_path, "cuts", "c.jsonl", on_invalid="skip"))) == 1


def test_table_rows_become_utterances_or_recordings(folder):
    lines = [
        "audio,text,speaker,start,end",
        "r0.wav,a,x,,",
        "r1.wav,b,y,0,0.1",
        'r1.wav,"c, d",x,0.1,9',
        "r1.wav,,z,0.1,0.2",
    ]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    config = config_of(folder, "audio_table", "t.csv")
    assert facts(train(config)) == [
        ("r0.wav", 0.0, 0.2, ("r0.wav", 0.0, 0.2, "a", "x")),
        ("r1.wav", 0.0, 0.1, ("r1.wav", 0.0, 0.1, "b", "y")),
        ("r1.wav-1", 0.1, 0.2, ("r1.wav-1", 0.0, 0.2, "c, d", "x")),
    ]
    notes = " ".join(notes_of(config))
    assert "train: 1 skipped: empty text" in notes
    assert "1 segments extend past the end of their recording and are cut there (r1.wav-1)" in notes
    whole = train(config_of(folder, "audio_table", "t.csv", unit="recording"))
    assert [(cut.id, len(cut.supervisions)) for cut in whole] == [("r0.wav", 1), ("r1.wav", 3)]


def notes_of(config):
    """Notes of a loaded corpus."""
    return get_speech_corpus(config).notes


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("audio,start,end\nr0.wav,0.1,x\n", "t.csv:2", "the end 'x' is not a number"),
        ("audio,start,end\nr0.wav,0.1,0.1\n", "t.csv:2", "not after the start"),
        ("audio,start,end\nr0.wav,0.1,0.10001\n", "t.csv:2", "less than a frame or a sample (0.025 s)"),
        ("audio,start\nr0.wav,0.19\n", "t.csv:2", "the segment has 0.01 s of audio, less than a frame"),
        ("audio,start\nr0.wav,-1\n", "t.csv:2", "the start '-1' is not"),
        ("audio,text\nr0.wav,a\nr0.wav,b\n", "t.csv:3", "one of them has no end"),
        ("audio,id\nr0.wav,a\nr1.wav,a\n", "t.csv:3", "the id 'a' is at"),
        ("audio,text\nr0.wav\n", "t.csv:2", "1 values; the first line names 2 columns"),
        ("audio,text\n,a\n", "t.csv:2", "column 'audio' is empty"),
        ("audio,text\n../x/r0.wav,a\n", "t.csv:2", "leaves"),
        ("path,text\nr0.wav,a\n", "t.csv:1", "there is no column 'audio'; columns: path, text; columns names the ones"),
    ],
)
def test_invalid_row_of_a_table(folder, text, place, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        train(config_of(folder, "audio_table", "t.csv"))
    assert f"{folder}/{place}: " in str(caught.value)
    assert message in str(caught.value)


def test_columns_have_other_names_and_a_tokenizer_needs_text(folder):
    (folder / "t.jsonl").write_text('{"path": "r0.wav", "who": 7, "sentence": "hi"}\n')
    config = config_of(folder, "audio_table", "t.jsonl", columns={"audio": "path", "speaker": "who"})
    assert facts(train(config))[0][3] == ("r0.wav", 0.0, 0.2, None, "7")
    needs = config_of(
        folder, "audio_table", "t.jsonl", columns={"audio": "path"}, tokenizer=TokenizerConfig(), on_invalid="error"
    )
    with pytest.raises(DataError, match="there is no column 'text'; columns: path, who, sentence"):
        train(needs)
    with pytest.raises(ValueError, match="audio and text are the same column"):
        config_of(folder, "audio_table", "t.jsonl", columns={"text": "audio"})


def test_rttm_belongs_to_recordings_by_name(tmp_path):
    wav(tmp_path / "a" / "r0.wav", 0.3)
    wav(tmp_path / "a" / "alone.wav", 0.3)
    wav(tmp_path / "b" / "r0.flac", 0.2, channels=2)
    line = "SPEAKER r0 1 {} 0.1 <NA> <NA> {} <NA> <NA>\n"
    (tmp_path / "a" / "r0.rttm").write_text(line.format(0.0, "x") + line.format(0.05, "y") + "SPKR-INFO r0\n")
    (tmp_path / "b" / "any.rttm").write_text(line.format(0.1, "x"))
    config = config_of(tmp_path, "rttm", loading={"speakers": True}, features={"channel": 0})
    assert [(cut.id, [part.speaker for part in cut.supervisions]) for cut in train(config)] == [
        ("a/r0", ["x", "y"]),
        ("b/r0", ["x"]),
    ]
    (batch,) = batches(config, "train")
    assert batch["speaker_activity"][0].sum(0).tolist() == [10, 10]
    assert "alone.wav" in " ".join(notes_of(config))
    (tmp_path / "a" / "r0.rttm").write_text("SPEAKER r9 1 0 1 <NA> <NA> x <NA> <NA>\n")
    with pytest.raises(DataError, match=r"r0\.rttm:1: there is no recording 'r9'"):
        train(config)


def test_changed_audio_is_prepared_again(folder):
    config = config_of(folder, "kaldi")
    assert train(config)[1].duration == pytest.approx(0.1)
    wav(folder / "r0.wav", 0.25)
    assert train(config)[1].duration == pytest.approx(0.15)


def test_bad_audio_is_named_with_its_line_or_dropped(folder):
    (folder / "r1.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"wav\.scp:2: audio .*r1\.wav cannot be read[\s\S]*bad_audio: drop"):
        train(config_of(folder, "kaldi"))
    assert len(train(config_of(folder, "kaldi", loading={"bad_audio": "drop"}))) == 2


def test_stereo_recordings_take_a_channel(tmp_path):
    wav(tmp_path / "r0.wav", 0.2, channels=2)
    (tmp_path / "t.csv").write_text("audio,text,start,end\nr0.wav,a,0,0.1\n")
    for channel, count in ((1, 1), ("mean", 1), ("each", 2)):
        config = config_of(tmp_path, "audio_table", "t.csv", features={"channel": channel})
        (batch,) = batches(config, "train")
        assert batch["features"].shape == (count, 10, 80)
        assert batch["text"] == ["a"] * count


def test_text_steps_and_filters_are_counted(folder):
    text = 'audio,text\nr0.wav,"Don\'t STOP, x-ray!"\nr1.wav,[noise] ...\n'
    (folder / "t.csv").write_text(text)
    steps = [{"pattern": r"\[(\w+)\]", "replacement": ""}, "lower", "remove_punctuation"]
    config = config_of(folder, "audio_table", "t.csv", text=steps)
    assert [cut.supervisions[0].text for cut in train(config)] == ["don't stop x ray"]
    assert "1 cuts are left out because normalisation leaves nothing of their text (r1.wav)" in str(notes_of(config))
    for limits, kept, reason in (
        ({"min_duration": 0.25}, ["r1.wav"], "below 0.25 s"),
        ({"max_duration": 0.25}, ["r0.wav"], "above 0.25 s"),
        ({"max_characters_per_second": 50}, ["r1.wav"], "above 50 characters a second"),
        ({"min_characters_per_second": 50}, ["r0.wav"], "below 50 characters a second"),
    ):
        config = config_of(folder, "audio_table", "t.csv", filter=limits)
        assert [cut.id for cut in train(config)] == kept
        assert reason in str(notes_of(config))
    with pytest.raises(ValueError, match="no cut is kept"):
        config_of(folder, "audio_table", "t.csv", filter={"min_duration": 2.0, "max_duration": 1.0})
    with pytest.raises(ValueError, match="not a regular expression"):
        config_of(folder, "audio_table", "t.csv", text=[{"pattern": "("}])
    with pytest.raises(ValueError, match="does not fit the pattern"):
        config_of(folder, "audio_table", "t.csv", text=[{"pattern": "a", "replacement": r"\1"}])


def test_mixture_of_own_files(folder):
    (folder / "t.csv").write_text("audio,text\nr0.wav,a\nr1.wav,b\n")
    parts = (config_of(folder, "kaldi"), config_of(folder, "audio_table", "t.csv").model_copy(update={"name": "t"}))
    shared = parts[0].global_config
    mixture = SpeechMixtureConfig(name="both", datasets={"mine": 1.0, "t": 1.0}, entries=parts, global_config=shared)
    assert len(load(mixture)["train"]) == 4
    changed = parts[0].model_copy(update={"augmentation": AugmentationConfig(volume={})})
    with pytest.raises(ValueError, match="'mine' has an augmentation, and a mixture uses its own"):
        SpeechMixtureConfig(name="both", datasets={"mine": 1.0, "t": 1.0}, entries=(changed, parts[1]))


def test_custom_source_returns_a_cut_set(folder, monkeypatch):
    class BeepsConfig(SpeechCorpusConfig):
        source: str = "beeps"

    made = CutSet.from_cuts(train(config_of(folder, "kaldi")))
    monkeypatch.setitem(
        SOURCES._entries, "beeps", type(SOURCES.get("kaldi"))(BeepsConfig, lambda config: {"train": made})
    )
    shared = GlobalConfig(output_dir=folder / "m")
    tokens = {"tokenizer": TokenizerConfig(), "text": ["lower"], "windows": {"seconds": 0.1}}
    config = BeepsConfig(name="b", global_config=shared, features={"storage": "numpy"}, **tokens)
    assert [len(cut.supervisions) for cut in load(config)["train"]] == [1, 1, 1, 1]
    (batch,) = batches(config, "train")
    assert batch["text"][0] == "a u0"
    assert batch["labels"].shape[0] == 4
    monkeypatch.setitem(
        SOURCES._entries, "beeps", type(SOURCES.get("kaldi"))(BeepsConfig, lambda config: {"train": [1]})
    )
    with pytest.raises(DataError, match=r"must return a dict of split to lhotse\.CutSet.*split 'train' as a list"):
        load(config.model_copy(update={"name": "c"}))
