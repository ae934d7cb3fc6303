"""Metrics of diarization: the diarization error rate and its three parts, pooled over all recordings."""

import torch

from evaluation.figure import Report
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.registry import register_metric
from evaluation.rows import Split
from evaluation.settings import Settings
from training.speech_metrics import SpeakerErrors, speaker_errors
from training.tasks.diarization import Diarization

KINDS = ("errors", "missed", "false_alarm", "confusion")


@register_metric("diarization")
@torch.no_grad()
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure der = (missed + false alarm + confusion) / speech, in frames times speakers; see `speaker_errors`."""
    task = run.task
    assert isinstance(task, Diarization)
    found: list[SpeakerErrors] = []
    for batch in split.batches(split.name):
        logits, _ = run.model(batch["features"], batch.get("feature_mask"))
        found += [speaker_errors(*pair) for pair in task.pairs(batch, logits)]
    speech = [one.speech for one in found]
    report = Report(notes=["overlapping speech is scored, with a collar of 0"])
    for kind in KINDS:
        counts = [getattr(one, kind) for one in found]
        name = "der" if kind == "errors" else kind
        report.figures.append(ratio_figure(name, counts, speech, settings.seed, of="recordings"))
    return report
