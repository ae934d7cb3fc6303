"""Tasks of a user's own: the means of what they return, with intervals over rows."""

import torch

from evaluation.figure import Report
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.rows import Split
from evaluation.settings import Settings


@torch.no_grad()
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """The loss and every metric of the task, each row a batch of its own, weighted as the task weighs batches."""
    sums: dict[str, list[float]] = {}
    weights: list[float] = []
    for batch in split.batches(split.name, size=1):
        weight = float(run.task.weight(batch))
        weights.append(weight)
        for name, value in run.task(run.model, batch).items():
            sums.setdefault(name, []).append(float(value) * weight)
    return Report([ratio_figure(name, values, weights, settings.seed) for name, values in sums.items()])
