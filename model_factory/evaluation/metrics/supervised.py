"""Metrics of classifiers: accuracy and cross-entropy."""

import math

import torch

from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.intervals import wilson
from model_factory.evaluation.metrics.likelihood import TextNLL, item_of, ratio_figure, row_nll
from model_factory.evaluation.metrics.responses import measure_written, without_predictions
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.tasks.base import counted_tokens
from model_factory.training.tasks.diarization import Diarization
from model_factory.training.tasks.language_modelling import next_token_logits
from model_factory.training.tasks.speech_metrics import SpeakerErrors, character_errors, speaker_errors, word_errors
from model_factory.training.tasks.speech_recognition import SpeechRecognition


@register_metric("sequence_classification")
@torch.no_grad()
def measure_classification(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure accuracy = correct rows / rows, and the cross-entropy in bits per row."""
    correct: list[bool] = []
    nats: list[float] = []
    for batch in split.batches(split.name):
        logits = run.model(batch["input_ids"], batch.get("attention_mask")).float()
        best, labels = logits.argmax(-1), batch["labels"]
        correct += (best == labels).tolist()
        found = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        nats += found.tolist()
        if settings.predictions:
            sides = ([_class_name(split, number) for number in side.tolist()] for side in (labels, best))
            scores = {"probability": logits.softmax(-1).amax(-1).tolist(), "bits": (found / math.log(2)).tolist()}
            references, predicted = sides
            settings.predictions.add(split, batch, references=references, predictions=predicted, scores=scores)
    interval, count = wilson(sum(correct), len(correct)), len(correct)
    accuracy = Figure(
        "accuracy", sum(correct) / count, interval.low, interval.high, count, "rows", settings.seed, "Wilson"
    )
    bits = [value / math.log(2) for value in nats]
    return Report([accuracy, ratio_figure("cross_entropy", bits, [1.0] * count, settings.seed, unit="bits")])


def _class_name(split: Split, number: int) -> str | int:
    """Return the name of a class, or its number where the data set names none."""
    names = getattr(split.entry, "classes", None)
    return names[number] if names else number


# Metrics of language models: NLL of the split's text, and samples.


@register_metric("language_modelling")
def measure_language(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure bits per token, character and byte and perplexity of all tokens but the first of a row, and samples."""
    report = Report()
    with report.attempt("bits_per_token", settings.seed):
        nll = split_nll(run, split, without_predictions(run, settings))
        note = "given the prompts" if nll.has_prompts else ""
        report.figures += nll.figures(settings.seed, item=item_of(split.entry), note=note)
        report.notes += nll.notes()
    report.add(measure_written(run, split, settings))
    return report


@torch.no_grad()
def split_nll(run: LoadedRun, split: Split, settings: Settings) -> TextNLL:
    """Compute the NLL in nats of all tokens but the first of each row, or of the tokens of its responses."""
    found = TextNLL()
    for batch in split.batches(split.name):
        ids, is_real = batch["input_ids"], counted_tokens(batch)
        nats = row_nll(next_token_logits(run.model, batch), ids[:, 1:], is_real[:, 1:])
        found.add(nats, batch, run.tokenizer)
        if settings.predictions:
            settings.predictions.add(split, batch, scores=found.last(len(nats)))
    return found


# Metrics of custom tasks: means of the loss and metrics that they return, with intervals over rows.


@torch.no_grad()
def measure_own_metrics(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the loss and every metric of the task, with one row per batch, weighted by the task's `weight`."""
    sums: dict[str, list[float]] = {}
    weights: list[float] = []
    for batch in split.batches(split.name, size=1):
        weight = float(run.task.weight(batch))
        weights.append(weight)
        values = {name: float(value) for name, value in run.task(run.model, batch).items()}
        for name, value in values.items():
            sums.setdefault(name, []).append(value * weight)
        if settings.predictions:
            settings.predictions.add(split, batch, scores={name: [value] for name, value in values.items()})
    return Report([ratio_figure(name, values, weights, settings.seed) for name, values in sums.items()])


# Metrics of speech recognition: word and character error rates, pooled over all utterances.


EXAMPLES = 3


@register_metric("speech_recognition")
@torch.no_grad()
def measure_recognition(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure wer = errors / words and cer = errors / characters of greedy decoding, by jiwer."""
    task = run.task
    assert isinstance(task, SpeechRecognition)
    pairs: list[tuple[str, str]] = []
    for batch in split.batches(split.name):
        logits, lengths = run.model(batch["features"], batch.get("feature_mask"))
        heard = task.transcripts(logits, lengths)
        pairs += zip(batch["text"], heard, strict=True)
        if settings.predictions:
            errors, words = zip(*(word_errors(*pair) for pair in pairs[-len(heard) :]), strict=True)
            scores = {"errors": errors, "words": words}
            settings.predictions.add(split, batch, references=batch["text"], predictions=heard, scores=scores)
    report = Report()
    for name, count in (("wer", word_errors), ("cer", character_errors)):
        with report.attempt(name, settings.seed):
            errors, sizes = zip(*(count(*pair) for pair in pairs), strict=True)
            report.figures.append(ratio_figure(name, errors, sizes, settings.seed, of="utterances"))
    report.examples = [f"reference  {text}\nheard      {heard}" for text, heard in pairs[:EXAMPLES]]
    return report


# Metrics of diarization: the diarization error rate and its three parts, pooled over all recordings.


KINDS = ("errors", "missed", "false_alarm", "confusion")


@register_metric("diarization")
@torch.no_grad()
def measure_speakers(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure der = (missed + false alarm + confusion) / speech, in frames times speakers; see `speaker_errors`."""
    task = run.task
    assert isinstance(task, Diarization)
    collar = round(settings.collar / split.entry.features.frame_shift)  # type: ignore[attr-defined]
    found: list[SpeakerErrors] = []
    for batch in split.batches(split.name):
        logits, _ = run.model(batch["features"], batch.get("feature_mask"))
        pairs = task.pairs(batch, logits)
        found += [speaker_errors(*pair, collar) for pair in pairs]
        if settings.predictions:
            sides = ([task.turns(side) for side in sides] for sides in zip(*pairs, strict=True))
            references, predicted = sides
            scores = {kind: [getattr(one, kind) for one in found[-len(pairs) :]] for kind in (*KINDS, "speech")}
            settings.predictions.add(split, batch, references=references, predictions=predicted, scores=scores)
    speech = [one.speech for one in found]
    report = Report(notes=[f"overlapping speech is scored, with a collar of {settings.collar:g} s"])
    for kind in KINDS:
        counts = [getattr(one, kind) for one in found]
        name = "der" if kind == "errors" else kind
        report.figures.append(ratio_figure(name, counts, speech, settings.seed, of="recordings"))
    return report
