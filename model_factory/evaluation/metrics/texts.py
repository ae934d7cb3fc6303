"""Metrics of a run's samples, and with a judge their comparison with the split's text."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from data_manager.progress import progress_bar
from data_manager.tokenizers.smiles import SmilesTokenizer
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.intervals import bootstrap_ratio, jackknife
from model_factory.evaluation.metrics.judge import measure_by_judge
from model_factory.evaluation.metrics.molecules import measure_molecules
from model_factory.evaluation.rows import Split
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import Request, Samples
from model_factory.evaluation.settings import Settings
from model_factory.training.tasks.base import real_tokens
from model_factory.training.tasks.diffusion import batch_condition

# Statistics of samples without a reference: entropy and distinct n-grams.


def sample_entropy(tokens: Sequence[Hashable]) -> float:
    """Compute the entropy in nats of the token frequencies within one sample; 0 for an empty sample.

    H = -sum_v p(v) ln p(v), p(v) = occurrences of v / tokens. It is low for repetitive samples.
    """
    counts, size = Counter(tokens), len(tokens)
    return -sum(count / size * math.log(count / size) for count in counts.values())


def entropy_figure(samples: Sequence[Sequence[Hashable]], seed: int) -> Figure:
    """Compute the mean of `sample_entropy`, as papers on text diffusion report it (Zheng et al. 2024, arXiv 2409.02908)."""
    values = np.array([sample_entropy(sample) for sample in samples])
    interval = bootstrap_ratio(values, seed=seed, what="samples")
    return Figure("entropy", float(values.mean()), *interval[:2], len(values), "samples", seed, interval.method, "nats")


def distinct_figure(samples: Sequence[Sequence[Hashable]], n: int, seed: int) -> Figure | None:
    """Compute distinct-n = different n-grams / all n-grams (Li et al. 2016, arXiv 1510.03055); None without n-grams."""
    found = [Counter(zip(*(sample[start:] for start in range(n)), strict=False)) for sample in samples]
    together: Counter[tuple[Hashable, ...]] = Counter()
    for counts in found:
        together.update(counts)
    total = sum(together.values())
    if total == 0:
        return None
    value = len(together) / total
    left_out = []
    for counts in found:  # n-grams of one sample only are left out with it
        rest = total - sum(counts.values())
        unique = sum(together[gram] == count for gram, count in counts.items())
        left_out.append((len(together) - unique) / rest if rest else value)
    interval = jackknife(value, np.array(left_out), what="samples")
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return Figure(f"distinct_{n}", value, low, high, len(samples), "samples", seed, interval.method, "", "of words")


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
        with report.attempt("validity", settings.seed):
            report.add(measure_molecules(run, samples, settings.seed))
        return report
    with report.attempt("entropy", settings.seed):
        report.add(_statistics(samples, settings.seed))
    if settings.judge is not None:
        with report.attempt("generative_perplexity", settings.seed):
            report.add(measure_by_judge(settings.judge, texts, split_texts(run, split, len(texts)), settings.seed))
    return report


def _conditions(run: LoadedRun, split: Split) -> Tensor | None:
    """Return the conditions [n] or [n, size] of the split's rows for the samples; None for a model without a condition."""
    if getattr(getattr(run.model, "diffusion_config", None), "condition", None) is None:
        return None
    found = [batch_condition(run.model, batch) for batch in islice(split.batches("conditions"), _CONDITIONS)]
    return torch.cat([cond for cond in found if cond is not None])


def is_molecules(run: LoadedRun) -> bool:
    """Return True if the run's texts are SMILES."""
    return run.dataset_config.source == "smiles" or isinstance(run.tokenizer, SmilesTokenizer)


def split_texts(run: LoadedRun, split: Split, count: int) -> list[str]:
    """Return the texts of the first rows of a split, as the data have them; ids without a text are decoded."""
    tokenizer, texts = run.require_tokenizer(), list[str]()
    for batch in split.batches("texts"):
        rows = zip(batch["input_ids"].cpu(), real_tokens(batch).cpu(), strict=True)
        texts += batch.get("input_text") or [tokenizer.decode(ids[kept].tolist()) for ids, kept in rows]
        if len(texts) >= count:
            break
    return texts[:count]


def _statistics(samples: Samples, seed: int) -> Report:
    report = Report([entropy_figure([sample.tokens for sample in samples.samples], seed)])
    words = [sample.text.split() for sample in samples.samples]
    found = (distinct_figure(words, n, seed) for n in (1, 2, 3))
    report.figures += [figure for figure in found if figure is not None]
    return report


# Self-BLEU (Zhu et al. 2018, Texygen, arXiv 1802.01886): similarity of samples to each other.


ORDER = 4


Grams = Counter[tuple[Hashable, ...]]


def self_bleu(samples: Sequence[Sequence[Hashable]]) -> list[float]:
    """Compute BLEU of each sample, 0 to 100, with all others as references: 100 for equal samples, low for diverse ones.

    Orders are 1 to 4, if the sample has n-grams of that order. As in sacrebleu's sentence BLEU (smooth_method exp,
    effective order), an order without a match counts as half a match, the next such order as a quarter. The reference
    length is the one closest to the sample's.
    """
    counts = [[_grams(sample, n) for sample in samples] for n in range(1, ORDER + 1)]
    top_counts = [_two_largest(grams) for grams in counts]
    lengths = Counter(map(len, samples))
    return [
        _bleu([grams[index] for grams in counts], top_counts, len(sample), lengths)
        for index, sample in enumerate(samples)
    ]


def self_bleu_figure(samples: Sequence[Sequence[Hashable]], seed: int) -> list[Figure]:
    """Return the mean of `self_bleu` over samples with words, or an empty list for fewer than two of them."""
    samples = [sample for sample in samples if sample]
    if len(samples) < 2:
        return []
    values = np.array(self_bleu(samples))
    interval = bootstrap_ratio(values, seed=seed, what="samples")
    note = "each with all others as references; low is diverse"
    ends = interval.low, interval.high
    return [Figure("self_bleu", float(values.mean()), *ends, len(values), "samples", seed, interval.method, "", note)]


def _grams(sample: Sequence[Hashable], n: int) -> Grams:
    return Counter(zip(*(sample[start:] for start in range(n)), strict=False))


def _two_largest(grams: list[Grams]) -> dict[tuple[Hashable, ...], tuple[int, int]]:
    """Return the two largest counts of each n-gram over samples."""
    found: dict[tuple[Hashable, ...], tuple[int, int]] = {}
    for counts in grams:
        for gram, count in counts.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (max(first, count), max(second, min(first, count)))
    return found


def _bleu(
    counts_by_order: list[Grams],
    top_counts: list[dict[tuple[Hashable, ...], tuple[int, int]]],
    length: int,
    lengths: Counter[int],
) -> float:
    logs, halving, any_hit = [], 1, False
    for counts, best in zip(counts_by_order, top_counts, strict=True):
        total = sum(counts.values())
        if not total:
            break
        hits = 0
        for gram, count in counts.items():
            first, second = best[gram]
            hits += min(count, second if count == first else first)
        any_hit = any_hit or hits > 0
        if not hits:
            halving *= 2
        logs.append(math.log(hits / total if hits else 1 / (halving * total)))
    if not any_hit:
        return 0.0
    others = [other for other, count in lengths.items() if count > (other == length)]
    closest = min(others, key=lambda other: (abs(other - length), other))
    brevity = min(0.0, 1 - closest / length)
    return 100 * math.exp(brevity + sum(logs) / len(logs))
