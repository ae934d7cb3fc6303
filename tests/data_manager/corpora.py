"""Tiny corpora that tests lay into a folder, in the layout of the real ones."""

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
