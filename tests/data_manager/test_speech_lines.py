"""Invalid lines of transcripts and RTTM files: named by file and line, and skipped with `on_invalid: skip`."""

import pytest

from data_manager.errors import DataError
from data_manager.speech.corpus import get_speech_corpus
from tests.data_manager.archives import CORPORA, SOUND_BYTES, pack
from tests.data_manager.corpora import librispeech_part, yesno
from tests.data_manager.speech_cases import config_of, load


def unpack(folder, name, root=""):
    """Write the members of a corpus's archives to folder/data/name, without the archives' top folders if `root` is set."""
    for members in CORPORA[name].archives.values():
        for path, content in members.items():
            place = folder / "data" / name / (path if not root else path.removeprefix(f"{root}/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(pack("x", content) if isinstance(content, str) else SOUND_BYTES)
    return folder / "data" / name


@pytest.fixture
def transcript(tmp_path):
    librispeech_part(tmp_path / "data" / "librispeech", "dev-clean", {"A": 0.03, "B C": 0.04, "D": 0.05})
    (path,) = (tmp_path / "data").rglob("*.trans.txt")
    return path


def voxconverse(folder, lines):
    for part, name in (("dev", "aaa"), ("test", "bbb")):
        place = folder / "data" / "voxconverse" / part
        place.mkdir(parents=True)
        (place / f"{name}.wav").write_bytes(SOUND_BYTES)  # 0.05 s
        (place / f"{name}.rttm").write_text("".join(line.format(name) for line in lines))
    return folder / "data" / "voxconverse" / "dev" / "aaa.rttm"


TURN = "SPEAKER {} 1 0.01 0.02 <NA> <NA> spk1 <NA> <NA>\n"
LINES = {
    "no words": (lambda text: text.replace(" B C", ""), 2, "no words after the id: '84-1-0001'"),
    "duplicate id": (lambda text: text + "84-1-0001 AGAIN\n", 4, "the id '84-1-0001' is at .*:2 already"),
}


@pytest.mark.parametrize(("change", "number", "reason"), LINES.values(), ids=LINES)
def test_invalid_transcript_line_is_named(change, number, reason, transcript, tmp_path):
    transcript.write_text(change(transcript.read_text()))
    with pytest.raises(DataError, match=rf"(?s)84-1\.trans\.txt:{number}: {reason}.*on_invalid: skip"):
        load(config_of(tmp_path))
    config = config_of(tmp_path, on_invalid="skip")
    texts = [cut.supervisions[0].text for cut in load(config)["dev-clean"]]
    assert texts == (["A", "D"] if "words" in reason else ["A", "B C", "D"])
    (note,) = get_speech_corpus(config).notes
    assert note.startswith("1 invalid lines are skipped: ")
    assert f"84-1.trans.txt:{number}: " in note


def test_empty_transcript_lines_are_no_fault(transcript, tmp_path):
    transcript.write_text(transcript.read_text().replace("\n", "\n\n"))
    assert len(load(config_of(tmp_path))["dev-clean"]) == 3
    assert get_speech_corpus(config_of(tmp_path)).notes == []


def test_all_invalid_lines_are_named_at_once(transcript, tmp_path):
    transcript.write_text("84-1-0000\n84-1-0001\n84-1-0002 D\n")
    with pytest.raises(DataError, match=r"(?s)has 2 invalid lines:.*:1: .*:2: "):
        load(config_of(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SPEAKER {} 1 0.01\n", "a turn has 10 fields, and this line has 4"),
        ("SPEAKER {} 1 x 0.02 <NA> <NA> spk1 <NA> <NA>\n", "the start 'x' is not a number"),
        ("SPEAKER {} 1 0.01 nan <NA> <NA> spk1 <NA> <NA>\n", "the duration 'nan' is not a number of seconds"),
        ("SPEAKER {} 1 0.01 0.02 <NA> <NA> spk 1 <NA> <NA>\n", "ValueError: too many values"),
    ],
)
def test_invalid_rttm_line_is_named(line, reason, tmp_path):
    voxconverse(tmp_path, [TURN, line, TURN.replace("spk1", "spk2")])
    with pytest.raises(DataError, match=rf"dev/aaa\.rttm:2: {reason}"):
        load(config_of(tmp_path, name="voxconverse"))
    config = config_of(tmp_path, name="voxconverse", on_invalid="skip")
    speakers = {split: [s.speaker for s in cuts[0].supervisions] for split, cuts in load(config).items()}
    assert speakers == {"dev": ["spk1", "spk2"], "test": ["spk1", "spk2"]}
    assert get_speech_corpus(config).notes[0].startswith("2 invalid lines are skipped: ")


def test_turn_without_length_is_skipped(tmp_path):
    voxconverse(tmp_path, [TURN, TURN.replace("0.02", "0"), "\n"])
    assert len(load(config_of(tmp_path, name="voxconverse"))["dev"][0].supervisions) == 1


def test_turns_after_the_end_of_the_audio_are_counted(tmp_path):
    late, long = TURN.replace("0.01", "0.05"), TURN.replace("0.02", "0.5").replace("spk1", "spk2")
    voxconverse(tmp_path, [TURN, late, late.replace("0.05", "7"), long])
    config = config_of(tmp_path, name="voxconverse")
    (cut,) = load(config)["dev"]
    assert [(s.speaker, round(s.duration, 3)) for s in cut.supervisions] == [("spk1", 0.02), ("spk2", 0.04)]
    notes = get_speech_corpus(config).notes
    assert "2 segments begin after the end of their recording and are lost (aaa-1, aaa-2)" in notes
    assert "1 segments extend past the end of their recording and are cut there (aaa-3)" in notes


def test_lost_turns_of_a_recipe_that_does_not_mend_them_are_counted():
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    from data_manager.speech.manifests import split_cuts

    recordings = RecordingSet.from_recordings([Recording("a", [], 8000, 400, 0.05)])
    segments = [SupervisionSegment(f"s{n}", "a", start, 0.02) for n, start in enumerate((0.0, 0.045, 0.06))]
    notes = []
    list(split_cuts({"dev": {"recordings": recordings, "supervisions": SupervisionSet.from_segments(segments)}}, notes))
    assert notes == [
        "dev: 1 segments begin after the end of their recording and are lost (s2)",
        "dev: 1 segments extend past the end of their recording and are cut there (s1)",
    ]


@pytest.mark.parametrize(
    ("name", "root", "file", "old", "new"),
    [
        ("ljspeech", "LJSpeech-1.1", "metadata.csv", "in 1450|in fourteen fifty", "in 1450"),
        ("cmu_arctic", "", "cmu_us_bdl_arctic/etc/txt.done.data", ' "Author of the danger trail." )', " )"),
        ("librittsr", "LibriTTS_R", "dev-clean/84/121123/84_121123.trans.tsv", "\tMaximilian.\tMaximilian.", ""),
    ],
)
def test_invalid_lines_of_other_corpora_are_named(name, root, file, old, new, tmp_path):
    folder = unpack(tmp_path, name, root)
    (folder / file).write_text((folder / file).read_text().replace(old, new))
    with pytest.raises(DataError, match=rf"{file}:\d: "):
        load(config_of(tmp_path, name=name))


def test_recordings_of_one_name_are_named(tmp_path):
    folder = unpack(tmp_path, "musan", "musan")
    (folder / "noise" / "b").mkdir()
    (folder / "noise" / "b" / "noise-a-0000.wav").write_bytes(SOUND_BYTES)
    with pytest.raises(DataError, match=r"duplicated IDs\. \(noise-a-0000\)\nRemove or rename one of"):
        load(config_of(tmp_path, name="musan"))


def test_yesno_of_another_size_is_explained(tmp_path):
    yesno(tmp_path / "data" / "yesno")
    next((tmp_path / "data" / "yesno").glob("*.wav")).unlink()
    expected = r"lhotse expects len\(wave_files\) == 60, and len\(wave_files\) is 59 \(yesno\.py:\d+\)"
    with pytest.raises(DataError, match=expected):
        load(config_of(tmp_path, name="yesno"))
