"""Metrics of runs on rows with responses: exact matches, BLEU and chrF of the responses that a run writes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from data_manager.rows.collate import pad_rows
from model_factory.diffusion.randomness import RowGenerators
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.intervals import wilson
from model_factory.evaluation.metrics.texts import measure_samples
from model_factory.evaluation.metrics.translation import EXAMPLES, SCORES, bleu_and_chrf, sentence_scores
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import draw_tokens
from model_factory.evaluation.sampling.given import has_responses
from model_factory.evaluation.sampling.prompt import Template
from model_factory.evaluation.sampling.sample import decode_sample, decoding_options
from model_factory.evaluation.settings import Settings
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed
from model_factory.training.tasks.base import counted_tokens, real_tokens
from model_factory.training.tasks.diffusion import batch_condition

_STREAM = 73


def measure_written(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the responses to the rows of the split, or unprompted samples of a run whose rows have no responses."""
    report = Report()
    if not has_responses(run):
        with report.attempt("samples", settings.seed):
            report.add(measure_samples(run, split, settings))
    elif settings.samples:
        with report.attempt("responses", settings.seed):
            report.add(measure_responses(run, split, settings))
    return report


def without_predictions(run: LoadedRun, settings: Settings) -> Settings:
    """Return the settings of a likelihood; where a run writes responses, those are its predictions."""
    return replace(settings, predictions=None) if settings.samples and has_responses(run) else settings


def measure_responses(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Draw the last response of each row given the rest, and compare it with the response of the data.

    exact_match = responses that are equal to those of the data / rows. The settings of the run's `generation` are used.
    """
    if settings.judge is not None:
        raise UnfitError("--judge reads samples without a prompt, and this run writes responses; leave it out")
    tokenizer, found = run.require_tokenizer(), list[tuple[str, str, str]]()
    for batch in split.batches("responses"):
        ids, last = batch["input_ids"], last_responses(counted_tokens(batch))
        rows = torch.arange(len(found), len(found) + len(ids), device=run.device)
        streams = RowGenerators.from_seed(mix_seed(settings.seed, _STREAM), rows)
        drawn = (_denoise if run.task_name == "diffusion" else _continue)(run, batch, last, streams)
        first = last.long().argmax(1).tolist()
        given = [tokenizer.decode(row[:start]) for row, start in zip(ids.tolist(), first, strict=True)]
        wanted = [ids[row][last[row]].tolist() for row in range(len(ids))]
        references, written = (
            [decode_sample(tokens, None, tokenizer).text for tokens in side] for side in (wanted, drawn)
        )
        found += zip(given, references, written, strict=True)
        if settings.predictions:
            scores: dict[str, Sequence[float]] = {
                "exact_match": [float(a == b) for a, b in zip(references, written, strict=True)]
            }
            scores |= {name: sentence_scores(name, written, references) for name in SCORES}
            settings.predictions.add(split, batch, references=references, predictions=written, scores=scores)
    _, wanted_texts, texts = zip(*found, strict=True)
    hits, count = sum(a == b for _, a, b in found), len(found)
    interval = wilson(hits, count)
    report = Report(
        [Figure("exact_match", hits / count, interval.low, interval.high, count, "rows", settings.seed, "Wilson")]
    )
    report.add(bleu_and_chrf(texts, wanted_texts, settings.seed))
    report.notes.append(f"responses drawn at temperature {run.generation.temperature:g}")
    for text, reference, response in found[:EXAMPLES]:
        report.examples.append(f"given      {text}\nreference  {reference}\nresponse   {response}")
    return report


def last_responses(mask: Tensor) -> Tensor:
    """Return bool [B, L], True at the last run of True in each row of `mask` [B, L]."""
    after = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    ends = (mask & ~after).long()
    number = ends.cumsum(1) - ends  # ends before each position
    found: Tensor = mask & (number == ends.sum(1, keepdim=True) - 1)
    return found


def _denoise(run: LoadedRun, batch: dict[str, Any], last: Tensor, streams: RowGenerators) -> list[list[int]]:
    """Draw the tokens where `last` is True by a diffusion model, given all other real tokens."""
    ids, real = batch["input_ids"], real_tokens(batch)
    kept = ~last
    templates = [Template(*row) for row in zip(ids.masked_fill(last, 0).tolist(), kept.tolist(), strict=True)]
    rows, _ = draw_tokens(run, real.sum(1).cpu(), batch_condition(run.model, batch), templates, streams)
    return [
        [token for token, chosen in zip(row, where, strict=False) if chosen]
        for row, where in zip(rows, last.tolist(), strict=True)
    ]


def _continue(run: LoadedRun, batch: dict[str, Any], last: Tensor, streams: RowGenerators) -> list[list[int]]:
    """Continue the tokens before the first position at which `last` is True by a decoder."""
    firsts, ids, model = last.long().argmax(1).tolist(), batch["input_ids"].tolist(), run.model
    longest, new = getattr(model.params, "max_length", None), run.generation.max_new_tokens
    if longest is not None:
        new = min(new, longest - max(firsts))
    if new < 1:
        raise UnfitError(
            f"a row is given {max(firsts):,} tokens, and the model's max_length {longest} leaves no response"
        )
    prompts = [row[:first] for row, first in zip(ids, firsts, strict=True)]
    padded, mask = (tensor.to(run.device) for tensor in pad_rows(prompts, run.require_tokenizer().pad_token_id))
    tokens = model.generate(padded, new, mask=mask, **decoding_options(run, streams))  # type: ignore[operator]
    found: list[list[int]] = tokens[:, padded.shape[1] :].tolist()
    return found
