"""Classifiers: how often they are right."""

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
    """accuracy = right rows / rows, and the cross-entropy in bits a row."""
    right: list[bool] = []
    nats: list[float] = []
    for batch in split.batches(split.name):
        logits = run.model(batch["input_ids"], batch.get("attention_mask")).float()
        right += (logits.argmax(-1) == batch["labels"]).tolist()
        nats += torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").tolist()
    interval, count = wilson(sum(right), len(right)), len(right)
    accuracy = Figure(
        "accuracy", sum(right) / count, interval.low, interval.high, count, "rows", settings.seed, "Wilson"
    )
    bits = [value / math.log(2) for value in nats]
    return Report([accuracy, ratio_figure("cross_entropy", bits, [1.0] * count, settings.seed, unit="bits")])
