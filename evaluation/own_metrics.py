"""Metrics of custom tasks: means of the loss and metrics that they return, with intervals over rows."""

import torch

from evaluation.figure import Report
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.rows import Split
from evaluation.settings import Settings


@torch.no_grad()
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the loss and every metric of the task, with one row per batch, weighted by the task's `weight`."""
    sums: dict[str, list[float]] = {}
    weights: list[float] = []
    for batch in split.batches(split.name, size=1):
        weight = float(run.task.weight(batch))
        weights.append(weight)
        for name, value in run.task(run.model, batch).items():
            sums.setdefault(name, []).append(float(value) * weight)
    return Report([ratio_figure(name, values, weights, settings.seed) for name, values in sums.items()])
