"""Metrics of classifiers: accuracy and cross-entropy."""

import math

import torch

from evaluation.figure import Figure, Report
from evaluation.intervals import wilson
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.registry import register_metric
from evaluation.rows import Split
from evaluation.settings import Settings


@register_metric("sequence_classification")
@torch.no_grad()
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure accuracy = correct rows / rows, and the cross-entropy in bits per row."""
    correct: list[bool] = []
    nats: list[float] = []
    for batch in split.batches(split.name):
        logits = run.model(batch["input_ids"], batch.get("attention_mask")).float()
        correct += (logits.argmax(-1) == batch["labels"]).tolist()
        nats += torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").tolist()
    interval, count = wilson(sum(correct), len(correct)), len(correct)
    accuracy = Figure(
        "accuracy", sum(correct) / count, interval.low, interval.high, count, "rows", settings.seed, "Wilson"
    )
    bits = [value / math.log(2) for value in nats]
    return Report([accuracy, ratio_figure("cross_entropy", bits, [1.0] * count, settings.seed, unit="bits")])
