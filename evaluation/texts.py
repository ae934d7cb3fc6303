"""Metrics of a run's samples, and with a judge their comparison with the split's text."""

from itertools import islice

import torch
from torch import Tensor

from evaluation.figure import Report
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from evaluation.rows import Split
from evaluation.sample import Request, Samples
from evaluation.sampling import draw
from evaluation.settings import Settings
from evaluation.text_statistics import distinct_figure, entropy_figure
from training.tasks.base import real_tokens

FEW = 30
EXAMPLES = 2
_CONDITIONS = 32
"""Number of batches of the split whose conditions the samples get."""


def measure_samples(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Draw unprompted samples and measure them, see `sample_figures`."""
    if not settings.samples or run.tokenizer is None:
        return Report()
    with progress_bar("samples", run.generation.num_samples) as track:
        samples = draw(run, Request(seed=settings.seed, cond=_conditions(run, split)), track)
    return sample_figures(run, split, samples, settings)


def sample_figures(run: LoadedRun, split: Split, samples: Samples, settings: Settings) -> Report:
    """Measure entropy and distinct-n of samples, with a judge its metrics too; for molecules those of chemistry instead."""
    texts = [sample.text for sample in samples.samples]
    report = Report(notes=list(samples.notes), examples=texts[:EXAMPLES])
    if len(texts) < FEW:
        report.notes.append(
            f"{len(texts)} samples are few, so intervals are wide; raise them, for example --num-samples 200"
        )
    if is_molecules(run):
        from evaluation.molecules import measure_molecules

        report.add(measure_molecules(run, samples, settings.seed))
        return report
    report.add(_statistics(samples, settings.seed))
    if settings.judge is not None:
        from evaluation.judge import measure_by_judge

        report.add(measure_by_judge(settings.judge, texts, split_texts(run, split, len(texts)), settings.seed))
    return report


def _conditions(run: LoadedRun, split: Split) -> Tensor | None:
    """Return the conditions [n] or [n, size] of the split's rows for the samples; None for a model without a condition."""
    from training.tasks.diffusion import batch_condition

    if getattr(getattr(run.model, "diffusion_config", None), "condition", None) is None:
        return None
    found = [batch_condition(run.model, batch) for batch in islice(split.batches("conditions"), _CONDITIONS)]
    return torch.cat([cond for cond in found if cond is not None])


def is_molecules(run: LoadedRun) -> bool:
    """Return True if the run's texts are SMILES."""
    tokenizer = getattr(run.dataset_config, "tokenizer", None)
    return run.dataset_config.source == "smiles" or getattr(tokenizer, "type", None) == "smiles"


def split_texts(run: LoadedRun, split: Split, count: int) -> list[str]:
    """Decode the texts of the first rows of a split."""
    tokenizer, texts = run.require_tokenizer(), []
    for batch in split.batches("texts"):
        rows = zip(batch["input_ids"].cpu(), real_tokens(batch).cpu(), strict=True)
        texts += [tokenizer.decode(ids[kept].tolist()) for ids, kept in rows]
        if len(texts) >= count:
            break
    return texts[:count]


def _statistics(samples: Samples, seed: int) -> Report:
    report = Report([entropy_figure([sample.tokens for sample in samples.samples], seed)])
    words = [sample.text.split() for sample in samples.samples]
    found = (distinct_figure(words, n, seed) for n in (1, 2, 3))
    report.figures += [figure for figure in found if figure is not None]
    return report
