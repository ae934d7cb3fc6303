"""Metrics of language models: NLL of the split's text, and samples."""

import torch

from evaluation.figure import Report
from evaluation.likelihood import TextNLL, row_nll
from evaluation.opened import LoadedRun
from evaluation.registry import register_metric
from evaluation.rows import Split
from evaluation.settings import Settings
from evaluation.texts import measure_samples
from training.tasks.base import real_tokens


@register_metric("language_modelling")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure bits per token, bits per character and perplexity of all tokens but the first of a row, and samples."""
    report = Report(split_nll(run, split).figures(settings.seed))
    report.add(measure_samples(run, split, settings))
    return report


@torch.no_grad()
def split_nll(run: LoadedRun, split: Split) -> TextNLL:
    """Compute the NLL in nats of all tokens but the first of each row."""
    found = TextNLL()
    for batch in split.batches(split.name):
        ids, is_real, mask = batch["input_ids"], real_tokens(batch), batch.get("attention_mask")
        logits = run.model(ids[:, :-1], mask=None if mask is None else mask[:, :-1])
        nats = row_nll(logits, ids[:, 1:], is_real[:, 1:])
        found.add(nats, ids[:, 1:], is_real[:, 1:], run.tokenizer)
    return found
