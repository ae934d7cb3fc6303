"""Metrics of translators: BLEU and chrF by sacrebleu, and NLL of the references."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.likelihood import TextNLL, row_nll
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.draw import translate
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import real_tokens

EXAMPLES = 3


@register_metric("translation")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the NLL of the targets, and BLEU and chrF of translations by greedy decoding, or beam search with num_beams.

    The file's temperature is ignored, because a random translation says little about the model's best one.
    """
    beams = run.generation.num_beams
    greedy = run.generation.model_copy(update={"temperature": 0.0, "top_k": None, "top_p": None})
    run = replace(run, config=run.config.model_copy(update={"generation": greedy}))
    nll, texts = _translate_split(run, split)
    sources, references, found = zip(*texts, strict=True)
    report = Report(nll.figures(settings.seed))
    figures, signatures = bleu_and_chrf(found, references, settings.seed)
    report.figures += figures
    report.notes += [f"translated {'greedily' if beams == 1 else f'with {beams} beams'}", *signatures]
    for source, reference, text in list(zip(sources, references, found, strict=True))[:EXAMPLES]:
        report.examples.append(f"source      {source}\nreference   {reference}\ntranslation {text}")
    return report


def bleu_and_chrf(found: Sequence[str], references: Sequence[str], seed: int) -> tuple[list[Figure], list[str]]:
    """Compute corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015), 0 to 100, by sacrebleu; also its signatures.

    Intervals are sacrebleu's bootstrap over sentences. Raises UnfitError where sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UnfitError(
            "BLEU and chrF are computed by sacrebleu, which is not installed: pip install sacrebleu"
        ) from error
    count, figures, signatures = len(found), [], []
    resamples = max(100, min(1000, 20_000_000 // max(1, count)))  # sacrebleu holds all resamples in memory at once
    metrics: list[tuple[str, Any]] = [("bleu", BLEU(force=True)), ("chrf", CHRF())]
    for name, metric in metrics:
        with _seeded(seed):
            score = metric.corpus_score(list(found), [list(references)], n_bootstrap=resamples if count > 1 else 1)
        signature = str(metric.get_signature())
        result = json.loads(score.format(width=8, signature=signature, is_json=True))
        low, high = float("nan"), float("nan")
        if count > 1 and "confidence_mean" in result:
            low, high = (result["confidence_mean"] + sign * result["confidence_var"] for sign in (-1, 1))
        elif count > 1:
            low, high = score.score, score.score
        figures.append(Figure(name, score.score, low, high, count, "sentences", seed, "bootstrap over sentences"))
        signatures.append(f"sacrebleu {name}: {signature}")
    return figures, signatures


@torch.no_grad()
def _translate_split(run: LoadedRun, split: Split) -> tuple[TextNLL, list[tuple[str, str, str]]]:
    """Return the NLL of the targets, and (source, reference, translation) of each row."""
    tokenizer, nll = run.require_tokenizer(), TextNLL()
    texts: list[tuple[str, str, str]] = []
    for batch in split.batches(split.name):
        target, is_real = batch["target_ids"], real_tokens(batch, "target_ids", "target_mask")
        mask, source_mask = batch.get("target_mask"), real_tokens(batch, "source_ids", "source_mask")
        target_mask = None if mask is None else mask[:, :-1]
        logits = run.model(batch["source_ids"], target[:, :-1], batch.get("source_mask"), target_mask)
        nll.add(row_nll(logits, target[:, 1:], is_real[:, 1:]), target[:, 1:], is_real[:, 1:], tokenizer)
        sources = [row[kept].tolist() for row, kept in zip(batch["source_ids"], source_mask, strict=True)]
        references = [row[kept].tolist() for row, kept in zip(target, is_real, strict=True)]
        sides = (sources, references, translate(run, sources, None))
        texts += [tuple(map(tokenizer.decode, row)) for row in zip(*sides, strict=True)]  # type: ignore[misc]
    return nll, texts


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Set the seed of sacrebleu's bootstrap, which it reads from the environment."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before
