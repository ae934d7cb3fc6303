"""A user's own speech files, written into a test's folder: for each of `configs/data/{cuts,kaldi,audio_table,rttm}.yml`."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def wav(path: Path, seconds: float = 0.2, *, channels: int = 1, rate: int = RATE, seed: int = 0) -> Path:
    """Noise of some seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels)), rate)
    return path


def kaldi(folder: Path, audio: str = "", *, segments: bool = True) -> Path:
    """A data folder of two recordings and three utterances, whose audio paths begin with `audio`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text(f"r0 {audio}r0.wav\nr1 {audio}r1.wav\n")
    if segments:
        (folder / "segments").write_text("u0 r0 0.0 0.1\nu1 r0 0.1 -1\nu2 r1 0.05 0.2\n")
    names = ("u0", "u1", "u2") if segments else ("r0", "r1")
    (folder / "text").write_text("".join(f"{name} A {name}\n" for name in names))
    (folder / "utt2spk").write_text("".join(f"{name} {name}-speaker\n" for name in names))
    return folder


def own_corpora(data: Path) -> None:
    """Write the corpora of all four configs below `data`."""
    for index in range(2):
        wav(data / "my_kaldi" / "wavs" / f"r{index}.wav", 0.2 + 0.1 * index, seed=index)
        wav(data / "my_table" / f"r{index}.wav", 0.2, seed=index)
        for split in ("train", "dev"):
            wav(data / "my_meetings" / split / f"r{index}.wav", 0.3, seed=index)
    for split in ("train", "dev"):
        kaldi(data / "my_kaldi" / "data" / split)
        turns = "".join(f"SPEAKER r{n // 2} 1 0.{n} 0.1 <NA> <NA> {'ab'[n % 2]} <NA> <NA>\n" for n in range(3))
        (data / "my_meetings" / split / "all.rttm").write_text(turns)
    wav(data / "my_noise" / "short.wav", 0.05, rate=8000, seed=7)
    wav(data / "my_noise" / "long.wav", 0.5, rate=8000, seed=8)
    (data / "my_noise" / "noise.csv").write_text("audio\nshort.wav\nlong.wav\n")
    (data / "my_table" / "train.tsv").write_text("path\tsentence\nr0.wav\t[noise] Don't, stop!\nr1.wav\tYes\n")
    (data / "my_table" / "dev.jsonl").write_text('{"path": "r0.wav", "sentence": "No", "start": 0, "end": 0.1}\n')
    manifests(data / "my_cuts")


def manifests(folder: Path) -> Path:
    """The manifests of `cuts.yml`: one recording, with relative paths."""
    wav(folder / "r0.wav", 0.3)
    source = {"type": "file", "channels": [0], "source": "r0.wav"}
    recording = {"id": "r0", "sources": [source], "sampling_rate": RATE, "num_samples": 4800, "duration": 0.3}
    spoken = {"id": "s0", "recording_id": "r0", "start": 0.0, "duration": 0.2, "channel": 0, "text": "some words"}
    cut = {"id": "c0", "start": 0.0, "duration": 0.3, "channel": 0, "supervisions": [spoken], "recording": recording}
    write_lines(folder / "recordings_dev.jsonl.gz", [recording])
    write_lines(folder / "supervisions_dev.jsonl.gz", [spoken])
    write_lines(folder / "cuts_train.jsonl.gz", [{**cut, "type": "MonoCut"}])
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write JSON lines, compressed if the name says so."""
    import gzip

    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
