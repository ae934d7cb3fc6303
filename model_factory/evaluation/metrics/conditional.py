"""Metrics of diffusion models of pairs: the bound of targets given their sources, and BLEU and chrF of what they write."""

from collections.abc import Sequence

import numpy as np
import torch

from model_factory.diffusion.randomness import RowGenerators
from model_factory.evaluation.figure import Report
from model_factory.evaluation.metrics.bound import bound, describe_bound
from model_factory.evaluation.metrics.likelihood import ratio_figure
from model_factory.evaluation.metrics.translation import EXAMPLES, bleu_and_chrf, translate_split
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.targets import draw_targets
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.noise import mix_seed
from model_factory.training.tasks.conditional_diffusion import ConditionalDiffusion

_STREAM = 71


@register_metric("conditional_diffusion")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the bound of -log p(target | source) in nats a pair, and BLEU and chrF of drawn targets.

    Figures per token and per character count those of the target with its one end token, as those of a translator do;
    the canvas has more tokens, and its fill costs what the model does not know of the target's length.
    """
    assert isinstance(run.task, ConditionalDiffusion)
    report = Report()
    with report.attempt("nats_per_pair", settings.seed):
        total, parts = bound(run, split, settings)
        note, remarks = describe_bound(run.model, split.entry, has_prompts=False, has_sources=True)
        report.figures += total.figures(settings.seed, note=note, item="pair")
        report.notes += [*remarks, *total.notes()]
        pairs = np.ones(len(total.nats))
        for name, nats in parts.items():
            report.figures.append(ratio_figure(f"{name}_part", nats, pairs, settings.seed, unit="nats a pair"))
        report.notes.append(
            f"the bound is of a target on a canvas of {run.task.canvas} tokens, filled with end tokens, all of which count"
        )
    if settings.samples:
        with report.attempt("bleu and chrf", settings.seed):
            report.add(_translations(run, split, settings))
    return report


def _translations(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Draw a target for each source of the split, and compare it with the reference."""
    calls: list[int | None] = []

    def translate(sources: Sequence[Sequence[int]]) -> list[str]:
        rows = torch.arange(len(calls), len(calls) + len(sources), device=run.device)
        found = draw_targets(run, sources, RowGenerators.from_seed(mix_seed(settings.seed, _STREAM), rows))
        calls.extend(sample.network_calls for sample in found)
        return [sample.text for sample in found]

    report = Report()
    texts, notes = translate_split(run, split, settings.predictions, translate)
    report.notes += notes
    known = [count for count in calls if count is not None]
    spent = f", {sum(known) / len(known):.4g} network calls a target" if known else ""
    report.notes.append(f"targets drawn at temperature {run.generation.temperature:g}{spent}")
    _, references, written = zip(*texts, strict=True)
    report.add(bleu_and_chrf(written, references, settings.seed))
    for source, reference, text in texts[:EXAMPLES]:
        report.examples.append(f"source      {source}\nreference   {reference}\ntranslation {text}")
    return report
