"""Tiny corpora written into a test's folder, in the layout of the real ones."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def librispeech_part(root: Path, part: str, lengths: dict[str, float], speaker: str = "84", chapter: str = "1") -> None:
    """A part with an utterance for each of `lengths`, text to seconds, below the folder that holds the parts."""
    folder = root / part / speaker / chapter
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = []
    for index, (text, seconds) in enumerate(lengths.items()):
        name = f"{speaker}-{chapter}-{index:04d}"
        soundfile.write(folder / f"{name}.flac", generator.normal(0, 0.1, int(seconds * RATE)), RATE)
        lines.append(f"{name} {text}\n")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


def yesno(root: Path) -> None:
    """The sixty recordings of yesno, each a tenth of a second at 8 kHz."""
    root.mkdir(parents=True)
    for index in range(60):
        name = "_".join(format(index, "08b"))
        soundfile.write(root / f"{name}.wav", np.zeros(800), 8000)


def timit(root: Path) -> None:
    """A sentence of half a second from each of two training speakers, a development and a test speaker."""
    for part, speaker in (("TRAIN", "FCJF0"), ("TRAIN", "MDAC0"), ("TEST", "FADG0"), ("TEST", "FDHC0")):
        folder = root / "data" / part / "DR1" / speaker
        folder.mkdir(parents=True)
        soundfile.write(folder / "SX1.WAV", np.random.default_rng(0).normal(0, 0.1, RATE // 2), RATE)
        (folder / "SX1.TXT").write_text("0 8000 She had greasy water.\n")
        (folder / "SX1.WRD").write_text("0 3000 she\n3000 8000 had\n")
        (folder / "SX1.PHN").write_text("0 1000 h#\n1000 2000 sh\n2000 3000 iy\n3000 8000 ax-h\n")
