"""Learning rate schedule of staged training: each stage warms up and decays on its own."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

import torch
from transformers import get_scheduler

from training.config_types import TrainingConfig
from training.stages import resolve_stages


def stage_lr_factors(settings: TrainingConfig) -> Callable[[int], float]:
    """Return the function from optimiser step, counted from 0, to the factor on `learning_rate`.

    A stage warms up over `warmup_steps`, or over all of its steps but one if it is shorter.
    """
    stages = resolve_stages(settings)
    schedules = [_build_schedule(settings, steps) for _, steps in stages]
    factors = [(stage.learning_rate or settings.learning_rate) / settings.learning_rate for stage, _ in stages]
    ends = list(accumulate(steps for _, steps in stages))

    def rate(step: int) -> float:
        index = min(bisect_right(ends, step), len(stages) - 1)
        within = step - (ends[index] - stages[index][1])
        return factors[index] * schedules[index](within)

    return rate


def _build_schedule(settings: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Build transformers' schedule over `steps` steps."""
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    warmup = min(settings.warmup_steps, steps - 1)
    scheduler = get_scheduler(settings.lr_scheduler_type, unused, warmup, steps)
    schedule: Callable[[int], float] = scheduler.lr_lambdas[0]
    return schedule
