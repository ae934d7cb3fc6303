"""Synthesise mixtures of two voices with speaker turns, in the layout of VoxConverse, for its recipe.

    python -m benchmarks.two_speakers data/voxconverse --recordings 200

writes FOLDER/dev and FOLDER/test, a .wav and an .rttm for each recording. A voice is a pulse train with its own pitch,
filtered by its own resonances (Fant's source-filter model); the two take turns and overlap.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
Samples = NDArray[np.float64]
Turn = tuple[float, float, int]
"""Start and end in seconds, and the index of the speaker."""


def voice(pitch: float, formants: Sequence[float], seconds: float, rng: np.random.Generator) -> Samples:
    """Synthesise a voiced sound: harmonics of a varying pitch (Hz), louder near a formant (Hz)."""
    time = np.arange(int(seconds * RATE)) / RATE
    wavering = pitch * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(wavering) / RATE
    sound = np.zeros_like(time)
    for number in range(1, int(3800 / pitch)):
        gain = sum(1 / (1 + ((number * pitch - formant) / 120) ** 2) for formant in formants)
        sound += gain * np.sin(number * phase + rng.uniform(0, 6))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(3, 6) * time + rng.uniform(0, 6))
    edge = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
    return sound * syllables * edge / (np.abs(sound).max() + 1e-9)


def turns(seconds: float, rng: np.random.Generator) -> list[Turn]:
    """Draw alternating turns of the speakers, with a pause or an overlap between turns."""
    found: list[Turn] = []
    start, speaker = rng.uniform(0, 0.3), int(rng.integers(2))
    while start < seconds - 0.4:
        end = min(seconds, start + rng.uniform(0.4, 1.5))
        found.append((start, end, speaker))
        start, speaker = max(start + 0.2, end + rng.uniform(-0.4, 0.3)), 1 - speaker
    return found


def mixture(seconds: float, seed: int) -> tuple[Samples, list[Turn]]:
    """Synthesise one recording at 16 kHz; return it and its turns."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(90, 130)
    voices = [(low, (500.0, 1500.0, 2500.0)), (low * rng.uniform(1.6, 2.0), (800.0, 1200.0, 3200.0))]
    spoken = turns(seconds, rng)
    sound = rng.normal(0, 0.003, int(seconds * RATE))
    for start, end, speaker in spoken:
        first, piece = int(start * RATE), voice(*voices[speaker], end - start, rng)
        piece = piece[: len(sound) - first]
        sound[first : first + len(piece)] += 0.3 * piece
    return np.clip(sound, -1, 1), spoken


def write_corpus(folder: Path, recordings: int, seconds: float, seed: int) -> None:
    """Write recordings to `folder`/dev for training, and a tenth as many (at least 2) to `folder`/test."""
    for number, (part, count) in enumerate((("dev", recordings), ("test", max(2, recordings // 10)))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            sound, spoken = mixture(seconds, seed * 1_000_003 + number * 500_009 + index)
            name = f"mix{part}{index:05d}"
            soundfile.write(folder / part / f"{name}.wav", sound, RATE)
            lines = [f"SPEAKER {name} 1 {a:.3f} {b - a:.3f} <NA> <NA> voice{who} <NA> <NA>\n" for a, b, who in spoken]
            (folder / part / f"{name}.rttm").write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write a corpus; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_speakers", description="Mixtures of two voices.")
    parser.add_argument("folder", type=Path, help="folder of dev/ and test/, such as data/voxconverse")
    parser.add_argument("--recordings", type=int, default=200, help="training recordings (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a recording (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of voices and turns (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.recordings < 1 or args.seconds <= 0.5:
        parser.error("--recordings must be 1 or more, and --seconds more than 0.5")
    write_corpus(args.folder, args.recordings, args.seconds, args.seed)
    print(f"{args.folder}: {args.recordings} training recordings of two voices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
