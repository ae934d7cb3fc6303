"""Which measurements a task has: a function of the open run, the split's rows and the settings, by the task's name."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.figure import Report
from yaml_config.registry import Registry

if TYPE_CHECKING:
    from evaluation.opened import Opened
    from evaluation.rows import Split


@dataclass(frozen=True)
class Settings:
    """How to measure: seed of all draws, `draws` of times and noise a row, a judge's folder, whether to draw samples."""

    seed: int = 0
    draws: int = 1
    judge: Path | None = None
    samples: bool = True


Evaluator = Callable[["Opened", "Split", Settings], Report]
EVALUATORS: Registry[Evaluator] = Registry("evaluator", "model_factory.evaluators")
"""By the names of tasks; a task without an entry is measured by its own loss and metrics."""


def evaluator_of(task: str) -> Evaluator:
    """What measures a run of a task."""
    if task in EVALUATORS:
        return EVALUATORS.get(task)
    return _lazy("evaluation.own_metrics", "measure")


def _lazy(module: str, function: str) -> Evaluator:
    def measure(run: "Opened", split: "Split", settings: Settings) -> Report:
        found: Evaluator = getattr(import_module(module), function)
        return found(run, split, settings)

    return measure


for _task, _module in {
    "language_modelling": "language",
    "diffusion": "bound",
    "latent_diffusion": "latent",
    "translation": "translation",
    "sequence_classification": "classification",
    "speech_recognition": "recognition",
    "diarization": "speakers",
}.items():
    EVALUATORS.add(_task, _lazy(f"evaluation.{_module}", "measure"))
