"""Metrics of speech recognition: word and character error rates, pooled over all utterances."""

import torch

from evaluation.figure import Report
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.registry import register_metric
from evaluation.rows import Split
from evaluation.settings import Settings
from training.speech_metrics import character_errors, word_errors
from training.tasks.speech_recognition import SpeechRecognition

EXAMPLES = 3


@register_metric("speech_recognition")
@torch.no_grad()
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure wer = errors / words and cer = errors / characters of greedy decoding, by jiwer."""
    task = run.task
    assert isinstance(task, SpeechRecognition)
    pairs: list[tuple[str, str]] = []
    for batch in split.batches(split.name):
        logits, lengths = run.model(batch["features"], batch.get("feature_mask"))
        pairs += zip(batch["text"], task.transcripts(logits, lengths), strict=True)
    report = Report()
    for name, count in (("wer", word_errors), ("cer", character_errors)):
        errors, sizes = zip(*(count(*pair) for pair in pairs), strict=True)
        report.figures.append(ratio_figure(name, errors, sizes, settings.seed, of="utterances"))
    report.examples = [f"reference  {text}\nheard      {heard}" for text, heard in pairs[:EXAMPLES]]
    return report
