"""Settings of an evaluation; no torch is imported."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings for measuring a run.

    `seed` is the seed of all draws, `draws` the number of times and noises per row, `judge` the folder of a judging
    language model; `samples` is False to draw no samples.
    """

    seed: int = 0
    draws: int = 1
    judge: Path | None = None
    samples: bool = True
