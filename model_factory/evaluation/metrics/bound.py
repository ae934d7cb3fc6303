"""Metrics of diffusion models: the variational bound of the NLL of the split's text, its parts, and samples."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_manager.dataset_types import DatasetConfig
from data_manager.row_types import TokensConfig
from model.discrete.inputs import given_tokens
from model.discrete.model import DiffusionModel
from model_factory.diffusion.randomness import ROW_WIDTH, RowGenerators
from model_factory.diffusion.time_strata import stratified_times
from model_factory.evaluation.figure import Report
from model_factory.evaluation.metrics.likelihood import TextNLL, item_of, ratio_figure
from model_factory.evaluation.metrics.published import PublishedTimes, published_times
from model_factory.evaluation.metrics.responses import measure_written, without_predictions
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.noise import mix_seed
from model_factory.training.run.folder import RunFolder
from model_factory.training.tasks.base import Batch, counted_tokens, real_tokens
from model_factory.training.tasks.diffusion import batch_condition, batch_masks, inserts_tokens

PARTS = ("diffusion", "prior", "reconstruction")
_LOSS = "loss"
"""Name of the loss of a model whose output has no parts."""
_NOTE = "at most"


def describe_bound(
    model: Any, entry: DatasetConfig, *, has_prompts: bool, has_sources: bool = False
) -> tuple[str, list[str]]:
    """Return the note beside a bound on a data set's rows, and notes of the report: how it was drawn, what is given and counted.

    A mask that hides the places after a row's end tells the network how long the row is, so that the bound is one of
    -log p(text | length). Rows that are filled with end tokens give no length.
    """
    given = ["the prompts"] if has_prompts else []
    given += ["the sources"] if has_sources else []
    notes = []
    is_whole = isinstance(entry, TokensConfig) and entry.layout == "whole" and not entry.is_paired
    if not isinstance(entry, TokensConfig) or not is_whole or inserts_tokens(model):
        pass
    elif not entry.is_filled:
        given.append("the lengths")
        remedy = "" if entry.has_responses and not entry.ends_with_response else "; fill: end counts the lengths too"
        notes.append(f"padding is hidden, so the bound is given the length of each row{remedy}")
    else:
        notes.append(
            f"rows are filled with end tokens up to {entry.limit} tokens, all of which count: a figure per token falls with "
            "the fill, nats_per_row does not"
        )
    parts = [_describe_draws(model), f"given {' and '.join(given)}" if given else ""]
    return ", ".join(filter(None, parts)), notes


@register_metric("diffusion")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the bound in bits per token, character and byte and as perplexity, its parts in bits per token, and samples.

    bound = diffusion + prior + reconstruction >= -log p(text), for flexmdm unmasking + insertion, of the responses alone in
    rows that name them. The diffusion part is an integral over time, estimated at `settings.draws` random times per row,
    stratified over the rows. Under absorbing noise, objectives with a count form draw numbers of masks instead, one in each
    of `settings.draws` strata: the bound of the network at eps 0, whatever eps it was trained with, which has no prior part.
    The note of the figures says so.
    """
    report = Report()
    with report.attempt("bits_per_token", settings.seed):
        total, parts = bound(run, split, without_predictions(run, settings))
        note, remarks = describe_bound(run.model, split.entry, has_prompts=total.has_prompts)
        report.figures += total.figures(settings.seed, note=note, item=item_of(split.entry))
        report.notes += [*remarks, *total.notes()]
        for name, nats in parts.items():
            bits = np.array(nats) / np.log(2)
            figure = ratio_figure(f"{name}_part", bits, total.tokens, settings.seed, unit="bits a token")
            report.figures.append(figure)
        report.add(_published(run, split, settings, total.tokens))
        if not parts:
            report.notes.append("this model's output has no bound in parts; the figures are of its loss")
    report.add(measure_written(run, split, settings))
    return report


@torch.no_grad()
def bound(run: LoadedRun, split: Split, settings: Settings) -> tuple[TextNLL, dict[str, list[float]]]:
    """Compute the bound of each row in nats, and its parts; the model's loss where its output has no parts."""
    total = TextNLL()
    parts: dict[str, list[float]] = {}
    for batch in split.batches(split.name):
        rows = run.task.prepare(run.model, batch)
        drawn = [_row_parts(run.model, rows, settings, draw) for draw in range(settings.draws)]
        mean = {name: torch.stack([one[name] for one in drawn]).mean(0) for name in drawn[0]}
        nats = torch.stack(list(mean.values())).sum(0)
        if "target_ids" in batch:  # the first token of a target is given
            total.add(nats, batch, run.tokenizer, side="target")
        else:
            total.add(nats, batch, run.tokenizer, with_first=True)
        total.inner += _count_inner(batch)
        if settings.predictions:
            settings.predictions.add(split, batch, scores=total.last(len(nats)))
        for name in [name for name in mean if name != _LOSS]:
            parts.setdefault(name, []).extend(mean[name].tolist())
    return total, parts


@torch.no_grad()
def _published(run: LoadedRun, split: Split, settings: Settings, tokens: Any) -> Report:
    """Return the figure that the published code of an imported model prints, in bits per token; empty for other runs."""
    report = Report()
    times = published_times(RunFolder(run.folder))
    if times is None or not isinstance(run.model, DiffusionModel):
        return report
    nats: list[float] = []
    for batch in split.batches(f"{split.name}, as published"):
        rows = run.task.prepare(run.model, batch)
        drawn = [_row_parts(run.model, rows, settings, draw, times)["diffusion"] for draw in range(settings.draws)]
        nats.extend(torch.stack(drawn).mean(0).tolist())
    bits = np.array(nats) / np.log(2)
    report.figures.append(ratio_figure("published", bits, tokens, settings.seed, unit="bits a token"))
    report.notes.append(times.note)
    return report


def _describe_draws(model: Any) -> str:
    """Return the note of the figures: how the noise of the bound was drawn."""
    counted = model.objective.by_counts() if isinstance(model, DiffusionModel) else None
    if counted is None:
        return _NOTE
    return f"{_NOTE}, by counts" if counted.noise_draw.has_ends else f"{_NOTE}, at eps 0 by counts"


def _count_inner(batch: Batch) -> int:
    """Count the rows in which given text follows a response."""
    if "response_mask" not in batch:
        return 0
    given = real_tokens(batch) & ~batch["response_mask"]
    return int((given & (batch["response_mask"].cumsum(1) > 0)).any(1).sum())


def _row_parts(
    model: Any, batch: Batch, settings: Settings, draw: int, published: PublishedTimes | None = None
) -> dict[str, Tensor]:
    """Compute the parts of the bound in nats, float64 [B] each, of the rows of a batch.

    With `published`, the diffusion part is at the times of a published evaluation, and the others are not computed.
    """
    ids, noise, mask = batch["input_ids"], batch["noise"], batch.get("attention_mask")
    if not isinstance(model, DiffusionModel):
        return _parts_by_row(model, batch)
    rows, cond = noise.place.to(ids.device), batch_condition(model, batch)
    masks = batch_masks(model, batch)
    documents = {"documents": masks["documents"]} if "documents" in masks else {}
    given, graph = given_tokens(real_tokens(batch), masks.get("response_mask")), model.process.graph
    source = model.encode(batch.get("context_ids"), batch.get("context_mask"))
    seed, counted = mix_seed(settings.seed, draw), None if published else model.objective.by_counts()
    times = stratified_times(rows, noise.batch_size, seed)
    if counted is not None:
        times = (draw + times) / settings.draws  # in the draw's stratum of the row
    objective = counted or model.objective
    times = model.times(times, ids, **documents, objective=objective)
    if published is not None:
        times = published.low + (published.high - published.low) * times
    found = objective.parts(
        lambda x_t, sigma: model.denoise(
            x_t, graph.conditioning_level(sigma, given), mask=mask, cond=cond, **documents, **source
        ),
        ids,
        times,
        RowGenerators.from_seed(seed + 1, rows, ROW_WIDTH),
        ~counted_tokens(batch),
        ends=published is None,
    )
    return {name: part.sum(1) for name, part in found.named().items()}


def _parts_by_row(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Compute the parts [B], or else the loss, of a custom model, row by row."""
    found: dict[str, list[Tensor]] = {}
    counted = counted_tokens(batch)
    for row in range(len(counted)):
        mask = None if "attention_mask" not in batch else batch["attention_mask"][row : row + 1]
        masks = {key: value[row : row + 1] for key, value in batch_masks(model, batch).items()}
        output = model(batch["input_ids"][row : row + 1], attention_mask=mask, **masks)
        values = {name: getattr(output, name, None) for name in PARTS}
        if any(value is None for value in values.values()):
            values = {_LOSS: output.loss}
        for name, value in values.items():
            assert value is not None
            found.setdefault(name, []).append(value.double().mean() * counted[row].sum())
    return {name: torch.stack(nats) for name, nats in found.items()}
