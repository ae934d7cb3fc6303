"""Settings of an evaluation; no torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_factory.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Settings:
    """Settings for measuring a run.

    `seed` seeds all draws. `draws` is the number of random times and noises per row. `judge` is the folder of a language
    model that judges samples. `samples` is False to draw no samples. `predictions` takes what is predicted for each row.
    `collar` is the time around the edges of segments that a diarization error rate leaves out, in seconds.
    """

    seed: int = 0
    draws: int = 1
    judge: Path | None = None
    samples: bool = True
    predictions: "Predictions | None" = None
    collar: float = 0.0
