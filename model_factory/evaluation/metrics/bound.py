"""Metrics of diffusion models: the variational bound of the NLL of the split's text, its parts, and samples."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.discrete.model import DiffusionModel
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.time_strata import stratified_times
from model_factory.evaluation.figure import Report
from model_factory.evaluation.metrics.likelihood import TextNLL, ratio_figure
from model_factory.evaluation.metrics.published import PublishedTimes, published_times
from model_factory.evaluation.metrics.texts import measure_samples
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.noise import mix_seed
from model_factory.training.run.folder import RunFolder
from model_factory.training.tasks.base import counted_tokens
from model_factory.training.tasks.diffusion import batch_condition, batch_masks

PARTS = ("diffusion", "prior", "reconstruction")
_NOTE = "at most"


@register_metric("diffusion")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the bound in bits per token, character and byte and as perplexity, its parts in bits per token, and samples.

    bound = diffusion + prior + reconstruction >= -log p(text). The diffusion part is an integral over time, estimated
    at `settings.draws` random times per row, stratified over the rows.
    """
    report = Report()
    with report.attempt("bits_per_token", settings.seed):
        total, parts = bound(run, split, settings)
        report.figures += total.figures(settings.seed, note=_NOTE)
        report.notes += total.notes()
        for name, nats in parts.items():
            bits = np.array(nats) / np.log(2)
            figure = ratio_figure(f"{name}_part", bits, total.tokens, settings.seed, unit="bits a token")
            report.figures.append(figure)
        report.add(_published(run, split, settings, total.tokens))
        if not parts:
            report.notes.append("this model's output has no bound in parts; the figures are of its loss")
    with report.attempt("samples", settings.seed):
        report.add(measure_samples(run, split, settings))
    return report


@torch.no_grad()
def bound(run: LoadedRun, split: Split, settings: Settings) -> tuple[TextNLL, dict[str, list[float]]]:
    """Compute the bound of each row in nats, and its parts; the model's loss where its output has no parts."""
    total = TextNLL()
    parts: dict[str, list[float]] = {}
    for batch in split.batches(split.name):
        drawn = [_row_parts(run.model, batch, mix_seed(settings.seed, draw)) for draw in range(settings.draws)]
        mean = {name: torch.stack([one[name] for one in drawn]).mean(0) for name in drawn[0]}
        total.add(torch.stack(list(mean.values())).sum(0), batch, run.tokenizer, with_first=True)
        if settings.predictions:
            settings.predictions.add(split, batch, scores=total.last(len(batch["input_ids"])))
        for name in mean.keys() & set(PARTS):
            parts.setdefault(name, []).extend(mean[name].tolist())
    return total, {name: parts[name] for name in PARTS if name in parts}


@torch.no_grad()
def _published(run: LoadedRun, split: Split, settings: Settings, tokens: Any) -> Report:
    """Return the figure that the published code of an imported model prints, in bits per token; empty for other runs."""
    report = Report()
    times = published_times(RunFolder(run.folder))
    if times is None or not isinstance(run.model, DiffusionModel):
        return report
    nats: list[float] = []
    for batch in split.batches(f"{split.name}, as published"):
        seeds = [mix_seed(settings.seed, draw) for draw in range(settings.draws)]
        drawn = [_row_parts(run.model, batch, seed, times)["diffusion"] for seed in seeds]
        nats.extend(torch.stack(drawn).mean(0).tolist())
    bits = np.array(nats) / np.log(2)
    report.figures.append(ratio_figure("published", bits, tokens, settings.seed, unit="bits a token"))
    report.notes.append(times.note)
    return report


def _row_parts(model: Any, batch: dict[str, Any], seed: int, times: PublishedTimes | None = None) -> dict[str, Tensor]:
    """Compute the parts of the bound in nats, float64 [B] each, of the rows of a batch.

    With `times`, the diffusion part is at the times of a published evaluation, and the others are not computed.
    """
    ids, noise, mask = batch["input_ids"], batch["noise"], batch.get("attention_mask")
    if not isinstance(model, DiffusionModel):
        return _parts_by_row(model, batch)
    rows, cond = noise.place.to(ids.device), batch_condition(model, batch)
    counted, masks = counted_tokens(batch), batch_masks(model, batch)
    documents = {"documents": masks["documents"]} if "documents" in masks else {}
    t = model.times(stratified_times(rows, noise.batch_size, seed), ids, **documents)
    found = model.objective.parts(
        lambda x_t, sigma: model.denoise(x_t, sigma, mask=mask, cond=cond, **documents),
        ids,
        t if times is None else times.low + (times.high - times.low) * t,
        RowGenerators.from_seed(seed + 1, rows),
        ~counted,
        ends=times is None,
    )
    return {name: getattr(found, name).sum(1) for name in PARTS}


def _parts_by_row(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Compute the parts [B], or else the loss, of a custom model, row by row."""
    found: dict[str, list[Tensor]] = {}
    counted = counted_tokens(batch)
    for row in range(len(counted)):
        mask = None if "attention_mask" not in batch else batch["attention_mask"][row : row + 1]
        masks = {key: value[row : row + 1] for key, value in batch_masks(model, batch).items()}
        output = model(batch["input_ids"][row : row + 1], attention_mask=mask, **masks)
        values = {name: getattr(output, name, None) for name in PARTS}
        if any(value is None for value in values.values()):
            values = {"loss": output.loss}
        for name, value in values.items():
            assert value is not None
            found.setdefault(name, []).append(value.double().mean() * counted[row].sum())
    return {name: torch.stack(nats) for name, nats in found.items()}
