"""Rows of an optimiser step, divided over processes and gradient accumulation parts, and steps of a training."""

import math
from dataclasses import dataclass

from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.errors import UnfitError

NO_EPOCHS = "a stream is not read before it trains, so the number of steps of an epoch is unknown"


@dataclass(frozen=True)
class Share:
    """Division of a step: `batch_size` rows per process and part, `accumulation` parts, `world` processes."""

    batch_size: int
    accumulation: int = 1
    world: int = 1
    rank: int = 0

    @property
    def rows(self) -> int:
        """Return the number of rows of an optimiser step."""
        return self.batch_size * self.accumulation * self.world


def resolve_steps(settings: TrainingConfig, rows: int | None, step_rows: int) -> TrainingConfig:
    """Return the settings with the steps that follow from `num_train_epochs` and `warmup_ratio`.

    An epoch of `rows` rows has rows / step_rows steps; a part of a step counts as one. `max_steps` is the largest
    number. The result has `warmup_steps` in place of a ratio. Raises UnfitError for epochs of a stream, of
    which `rows` is None.
    """
    if settings.num_train_epochs is not None and rows is None:
        raise UnfitError(f"training.num_train_epochs: {NO_EPOCHS}; set training.max_steps in its place")
    steps, warmup = settings.max_steps, settings.warmup_steps
    if settings.num_train_epochs is not None and rows is not None:
        of_epochs = max(1, math.ceil(settings.num_train_epochs * rows / step_rows))
        steps = min(of_epochs, steps)
    if settings.warmup_ratio is not None:
        warmup = min(round(settings.warmup_ratio * steps), steps - 1)
    return settings.model_copy(update={"max_steps": steps, "warmup_steps": warmup, "warmup_ratio": None})
