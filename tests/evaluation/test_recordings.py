"""`generate.py --input` on recordings: audio files, folders and manifests, as text, STM, RTTM and JSON."""

import gzip
import json

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.two_speakers import write_corpus
from data_manager.tokenizers.simple import CharacterTokenizer
from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import main
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.training.tasks.speech_metrics import speaker_errors
from tests.evaluation.untrained_runs import DECODER, make_run, text_data

RATE = 8000
LISTENER = {
    "model_type": "encoder",
    "name": "listener",
    "encoder": {"d_model": 16, "num_layers": 1, "num_heads": 2, "input_dim": 20, "device": "cpu"},
}


def tone(path, seconds, pitch=400.0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time * (1 + time)), rate)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    entry = {
        "name": "librispeech",
        "features": {"num_mel_bins": 20, "sampling_rate": RATE},
        "tokenizer": {"type": "characters"},
        "process_params": {"dataset_parts": ["dev-clean"]},
    }
    chapter = folder / "data" / "librispeech" / "LibriSpeech" / "dev-clean" / "84" / "1"
    for number, seconds in enumerate((0.5, 0.9)):
        tone(chapter / f"84-1-000{number}.flac", seconds, 300.0 * (number + 1))
    (chapter / "84-1.trans.txt").write_text("84-1-0000 DO RE\n84-1-0001 MI RE DO\n")
    speech = {"channels": 4, "subsampling": 2}
    return make_run(folder, LISTENER, [entry], "speech_recognition", speech=speech, eval_split="dev-clean")


@pytest.fixture(scope="module")
def diarizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diarizer")
    write_corpus(folder / "data" / "voxconverse", 3, 2.0, seed=0)
    entry = {"name": "voxconverse", "features": {"num_mel_bins": 20}, "loading": {"speakers": True}}
    return make_run(folder, LISTENER, [entry], "diarization", speech={"channels": 4}, eval_split="dev")


@pytest.fixture
def audio(tmp_path):
    for name, seconds in (("b.wav", 0.4), ("a.flac", 0.8), ("sub/c.wav", 0.6)):
        tone(tmp_path / "audio" / name, seconds)
    (tmp_path / "audio" / "notes.txt").write_text("no audio")
    return tmp_path / "audio"


def written(capsys, *words, code=0):
    assert main([*map(str, words)]) == code
    return capsys.readouterr()


def test_transcripts_are_those_of_the_evaluation(recogniser, capsys, tmp_path):
    run = open_run(recogniser)
    chapter = recogniser.parent / "data" / "librispeech" / "LibriSpeech" / "dev-clean" / "84" / "1"
    files = [chapter / f"84-1-000{number}.flac" for number in range(2)]
    lines = written(capsys, "--run", recogniser, "--input", *files).out.splitlines()
    predictions = tmp_path / "out.jsonl"
    assert evaluate(["--run", str(recogniser), "--write-predictions", str(predictions)]) == 0
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert lines == [f"{row['id']} {row['prediction']}".rstrip() for row in rows]
    assert [row["reference"] for row in rows] == ["DO RE", "MI RE DO"]
    assert [row["input"] for row in rows] == [*map(str, files)]
    assert all(row["score"]["words"] == len(row["reference"].split()) for row in rows)
    assert isinstance(run.tokenizer, CharacterTokenizer)


def test_files_folders_and_manifests(recogniser, audio, capsys, monkeypatch):
    base = ("--run", recogniser, "--input")
    in_folder = written(capsys, *base, audio).out.splitlines()
    texts = dict(line.partition(" ")[::2] for line in in_folder)
    assert list(texts) == ["a", "b", "sub/c"]
    assert len(set(texts.values())) > 1
    for size in (1, 2):
        assert written(capsys, *base, audio, "--batch-size", size).out.splitlines() == in_folder
    assert written(capsys, *base, audio / "b.wav", audio / "a.flac").out == f"b {texts['b']}\na {texts['a']}\n"
    twins = audio / "sub" / "b.wav"
    twins.write_bytes((audio / "b.wav").read_bytes())
    ids = [line.partition(" ")[0] for line in written(capsys, *base, audio / "b.wav", twins).out.splitlines()]
    assert ids == [str((audio / "b").as_posix()), str((audio / "sub" / "b").as_posix())]
    from lhotse import Recording

    recording = Recording.from_file(audio / "a.flac")
    lines = [{"audio": "b.wav", "id": "x y"}, recording.to_dict(), recording.to_cut().to_dict()]
    (audio / "list.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    with gzip.open(audio / "list.jsonl.gz", "wb") as file:
        file.write((audio / "list.jsonl").read_bytes())
    for name in ("list.jsonl", "list.jsonl.gz"):
        found = written(capsys, *base, audio / name).out.splitlines()
        assert found[0] == f"x_y {texts['b']}"
        assert [line.partition(" ")[2] for line in found[1:]] == [texts["a"]] * 2


def test_stm_and_json(recogniser, audio, capsys):
    base = ("--run", recogniser, "--input", audio / "a.flac")
    text = written(capsys, *base).out.partition(" ")[2]
    assert written(capsys, *base, "--format", "stm").out == f"a 1 a 0.00 0.80 <NA> {text}"
    [found] = map(json.loads, written(capsys, *base, "--json").out.splitlines())
    assert found == {"line": 1, "id": "a", "output": text.removesuffix("\n")}


def test_audio_that_cannot_be_read(recogniser, audio, tmp_path, capsys):
    (audio / "bad.wav").write_bytes(b"no audio at all")
    whole = (audio / "a.flac").read_bytes()
    (audio / "cut.flac").write_bytes(whole[: len(whole) // 2])
    command = {"type": "command", "channels": [0], "source": f"touch {tmp_path / 'ran'}"}
    lines = [
        {"audio": "a.flac"},
        {"audio": "none.wav"},
        [1],
        {"id": "x", "sources": [command], "sampling_rate": RATE, "num_samples": 8, "duration": 0.001},
        {"audio": "bad.wav", "id": "bad"},
        {"audio": "cut.flac", "id": "cut"},
    ]
    (audio / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    out, err = written(capsys, "--run", recogniser, "--input", audio / "list.jsonl", code=1)
    assert len(out.splitlines()) == 7
    assert out.startswith("a ")
    assert f"{audio / 'list.jsonl'}:4: the audio is of type 'command', and only files are read" in err
    for number in (2, 3, 5, 6, 7):
        assert f"{audio / 'list.jsonl'}:{number}: " in err
    assert "6 of 7 lines have no text in the output: 2, 3, 4, 5, 7, 6" in err
    assert not (tmp_path / "ran").exists()


def test_resume_of_transcripts(recogniser, audio, tmp_path, capsys):
    base = ("--run", recogniser, "--output", tmp_path / "out.txt", "--input")
    written(capsys, *base, audio)
    before = (tmp_path / "out.txt").read_text()
    written(capsys, *base, audio, "--resume")
    assert (tmp_path / "out.txt").read_text() == before
    new = ("--run", recogniser, "--output", tmp_path / "new.txt", "--input")
    (tmp_path / "empty").mkdir()
    for wrong, message in ((tmp_path / "none.wav", "no such file"), (tmp_path / "empty", "has no audio files")):
        assert message in written(capsys, *new, audio, wrong, code=3).err
    assert not (tmp_path / "new.txt").exists()
    assert "--length is for diffusion models" in written(capsys, *new, audio, "--length", 3, code=1).err
    assert "others than those that" in written(capsys, *base, audio / "b.wav", "--resume", code=1).err


def test_turns_as_rttm(diarizer, capsys, tmp_path):
    run = open_run(diarizer)
    split = load_split(run, "dev", max_rows=None, seed=0)
    recordings = [cut.recording.sources[0].source for cut in split.rows.items]
    base = ("--run", diarizer, "--input", *recordings)
    turns = [line.split() for line in written(capsys, *base).out.splitlines()]
    assert {turn[1] for turn in turns} <= {cut.recording_id for cut in split.rows.items}
    [batch] = split.batches("dev", size=3)
    with torch.no_grad():
        logits, _ = run.model(batch["features"], batch.get("feature_mask"))
    for cut, (_, predicted) in zip(split.rows.items, run.task.pairs(batch, logits), strict=True):
        frames = torch.zeros_like(predicted)
        for _, name, _, begin, length, _, _, speaker, *_ in turns:
            if name == cut.recording_id:
                first, last = round(float(begin) * 100), round((float(begin) + float(length)) * 100)
                frames[first:last, int(speaker.removeprefix("speaker"))] = True
        assert torch.equal(frames, predicted)
    lines = [json.loads(line) for line in written(capsys, *base, "--json").out.splitlines()]
    assert sum(len(line["output"]) for line in lines) == len(turns)
    assert "a run of task diarization writes rttm" in written(capsys, *base, "--format", "stm", code=1).err


def test_collar_of_diarization_errors(diarizer, capsys, tmp_path):
    active = torch.zeros(12, 1, dtype=torch.bool)
    active[4:9] = True
    late = active.roll(1, 0)
    for collar, expected in ((0, (1, 1, 5)), (1, (0, 0, 3)), (2, (0, 0, 1)), (40, (0, 0, 0))):
        found = speaker_errors(active, late, collar)
        assert (found.missed, found.false_alarm, found.speech) == expected
    figures = []
    for collar in ("0", "0.25"):
        words = ["--run", str(diarizer), "--split", "dev", "--collar", collar]
        assert evaluate([*words, "--write-predictions", str(tmp_path / "out.jsonl")]) == 0
        out = capsys.readouterr().out
        assert f"with a collar of {collar} s" in out
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        figures.append(sum(row["score"]["speech"] for row in rows))
        assert rows[0]["reference"][0][1:] == pytest.approx([0.0, rows[0]["reference"][0][2]], abs=0.5)
    assert figures[1] < figures[0]


def test_options_of_recordings(tmp_path, capsys):
    run = make_run(tmp_path / "text", DECODER, text_data(tmp_path / "text"), "language_modelling")
    (tmp_path / "in.txt").write_text("the\n")
    err = written(capsys, "--run", run, "--input", tmp_path / "in.txt", "--format", "stm", code=1).err
    assert "--format stm is for recordings" in err
    assert evaluate(["--run", str(run), "--collar", "0.25"]) == 1
    assert "--collar is for diarization" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(["--run", str(run), "--collar", "-1"])
