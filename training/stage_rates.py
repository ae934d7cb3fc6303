"""The course of the learning rate where training has stages: each has its own, from warm-up to end."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

import torch
from transformers import get_scheduler

from training.config_types import TrainingConfig
from training.stages import resolve_stages


def stage_lr_factors(settings: TrainingConfig) -> Callable[[int], float]:
    """Share of `learning_rate` at each optimiser step, counted from 0.

    A stage warms up over `warmup_steps`, or over all of its steps but one where it is shorter.
    """
    stages = resolve_stages(settings)
    courses = [_course(settings, steps) for _, steps in stages]
    shares = [(stage.learning_rate or settings.learning_rate) / settings.learning_rate for stage, _ in stages]
    ends = list(accumulate(steps for _, steps in stages))

    def rate(step: int) -> float:
        index = min(bisect_right(ends, step), len(stages) - 1)
        within = step - (ends[index] - stages[index][1])
        return shares[index] * courses[index](within)

    return rate


def _course(settings: TrainingConfig, steps: int) -> Callable[[int], float]:
    """transformers' own course over so many steps."""
    nothing = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    warmup = min(settings.warmup_steps, steps - 1)
    made = get_scheduler(settings.lr_scheduler_type, nothing, warmup, steps)
    course: Callable[[int], float] = made.lr_lambdas[0]
    return course
