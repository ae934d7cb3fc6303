"""Metrics of translators: BLEU and chrF by sacrebleu, and NLL of the references."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_manager.rows.source import SourceSize
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.intervals import bootstrap
from model_factory.evaluation.metrics.likelihood import TextNLL, item_of, row_nll
from model_factory.evaluation.predictions import Predictions
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.draw import translate
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import real_tokens

EXAMPLES = 3
SCORES = ("bleu", "chrf")


@register_metric("translation")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the NLL of the targets, and BLEU and chrF of translations by greedy decoding, or beam search with num_beams.

    The file's temperature is ignored, because a random translation says little about the model's best one.
    """
    beams = run.generation.num_beams
    greedy = run.generation.model_copy(update={"temperature": 0.0, "top_k": None, "top_p": None})
    run = replace(run, config=run.config.model_copy(update={"generation": greedy}))
    report = Report()
    with report.attempt("bits_per_token", settings.seed):
        nll = target_nll(run, split)
        report.figures += nll.figures(settings.seed, item=item_of(split.entry))
        report.notes += nll.notes()
    with report.attempt("bleu and chrf", settings.seed):
        texts, notes = translate_split(run, split, settings.predictions)
        report.notes += notes
        report.notes.append(f"translated {'greedily' if beams == 1 else f'with {beams} beams'}")
        _, references, found = zip(*texts, strict=True)
        report.add(bleu_and_chrf(found, references, settings.seed))
        for source, reference, text in texts[:EXAMPLES]:
            report.examples.append(f"source      {source}\nreference   {reference}\ntranslation {text}")
    return report


def bleu_and_chrf(found: Sequence[str], references: Sequence[str], seed: int) -> Report:
    """Compute corpus BLEU and chrF; a score that fails does not take the other one with it."""
    report = Report()
    for name in SCORES:
        with report.attempt(name, seed):
            figure, signature = corpus_score(name, found, references, seed)
            report.figures.append(figure)
            report.notes.append(signature)
    return report


def corpus_score(name: str, found: Sequence[str], references: Sequence[str], seed: int) -> tuple[Figure, str]:
    """Compute corpus BLEU (Papineni et al. 2002) or chrF (Popović 2015), 0 to 100, by sacrebleu; also its signature.

    The interval is a bootstrap over sentences of sacrebleu's counts. Raises UnfitError where sacrebleu is not installed.
    """
    metric = _metric(name)
    value = float(metric.corpus_score(list(found), [list(references)]).score)
    counts = np.array(metric._extract_corpus_statistics(found, [references]))  # (sentences, counts)

    def score(drawn: NDArray[np.int64]) -> float:
        return float(metric._compute_score_from_stats(counts[drawn].sum(0).tolist()).score)

    interval = bootstrap(score, len(found), seed=seed, what="sentences")
    figure = Figure(name, value, interval.low, interval.high, len(found), "sentences", seed, interval.method)
    return figure, f"sacrebleu {name}: {metric.get_signature()}"


def sentence_scores(name: str, found: Sequence[str], references: Sequence[str]) -> list[float]:
    """Compute BLEU, with sacrebleu's smoothing, or chrF of each sentence."""
    metric = _metric(name, effective_order=True)
    pairs = zip(found, references, strict=True)
    return [float(metric.sentence_score(text, [reference]).score) for text, reference in pairs]


def _metric(name: str, **settings: Any) -> Any:
    """Return sacrebleu's BLEU or chrF; raise UnfitError where sacrebleu is not installed."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UnfitError(
            "BLEU and chrF are computed by sacrebleu, which is not installed: pip install sacrebleu"
        ) from error
    return BLEU(force=True, **settings) if name == "bleu" else CHRF()


@torch.no_grad()
def target_nll(run: LoadedRun, split: Split) -> TextNLL:
    """Compute the NLL in nats of all target tokens but the first of each row, given the source."""
    found = TextNLL()
    for batch in split.batches(split.name):
        target, is_real = batch["target_ids"], real_tokens(batch, "target_ids", "target_mask")
        mask = batch.get("target_mask")
        target_mask = None if mask is None else mask[:, :-1]
        logits = run.model(batch["source_ids"], target[:, :-1], batch.get("source_mask"), target_mask)
        nats = row_nll(logits, target[:, 1:], is_real[:, 1:])
        found.add(nats, batch, run.tokenizer, side="target")
    return found


@torch.no_grad()
def translate_split(
    run: LoadedRun,
    split: Split,
    predictions: Predictions | None = None,
    translator: Callable[[list[list[int]]], list[str]] | None = None,
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (source, reference, translation) of each row, and notes on rows that do not hold all of their text.

    `translator` maps a batch of source rows to texts; None: the run's encoder-decoder.

    Source and reference are the text of the data, which a row may hold in part only; ids without a text are decoded.
    """
    tokenizer = run.require_tokenizer()
    texts: list[tuple[str, str, str]] = []
    truncated = {"source": 0, "target": 0}
    for batch in split.batches("translations"):
        ids: dict[str, list[list[int]]] = {}
        shown: dict[str, list[str]] = {}
        for side in truncated:
            kept = real_tokens(batch, f"{side}_ids", f"{side}_mask")
            ids[side] = [row[real].tolist() for row, real in zip(batch[f"{side}_ids"], kept, strict=True)]
            shown[side] = batch.get(f"{side}_text") or [tokenizer.decode(row) for row in ids[side]]
            if f"{side}_size" in batch:
                truncated[side] += int((SourceSize(*batch[f"{side}_size"].T).cut_characters > 0).sum())
        if translator is None:
            found = [tokenizer.decode(row) for row in translate(run, ids["source"], None)]
        else:
            found = translator(ids["source"])
        texts += zip(shown["source"], shown["target"], found, strict=True)
        if predictions:
            scores = {name: sentence_scores(name, found, shown["target"]) for name in SCORES}
            predictions.add(split, batch, references=shown["target"], predictions=found, scores=scores)
    effects = {"source": "translated from its beginning", "target": "scored in full"}
    return texts, [
        f"{count:,} of {len(texts):,} rows have a truncated {side} (too_long: cut), which is {effects[side]}"
        for side, count in truncated.items()
        if count
    ]
