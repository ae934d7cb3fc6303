"""Self-BLEU (Zhu et al. 2018, Texygen, arXiv 1802.01886): similarity of samples to each other."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from evaluation.figure import Figure
from evaluation.intervals import bootstrap_ratio

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
