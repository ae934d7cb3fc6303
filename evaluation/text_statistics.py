"""Statistics of samples alone: entropy and distinct n-grams."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from evaluation.figure import Figure
from evaluation.intervals import bootstrap_ratio, jackknife


def sample_entropy(tokens: Sequence[Hashable]) -> float:
    """Entropy in nats of the frequencies of tokens within one sample; 0 of an empty one.

    H = -sum_v p(v) ln p(v), p(v) = occurrences of v / tokens. Repetition makes it low.
    """
    counts, size = Counter(tokens), len(tokens)
    return -sum(count / size * math.log(count / size) for count in counts.values())


def entropy_figure(samples: Sequence[Sequence[Hashable]], seed: int) -> Figure:
    """The mean of `sample_entropy`, as papers on diffusion of text report it (Zheng et al. 2024, arXiv 2409.02908)."""
    values = np.array([sample_entropy(sample) for sample in samples])
    interval = bootstrap_ratio(values, seed=seed, what="samples")
    return Figure("entropy", float(values.mean()), *interval[:2], len(values), "samples", seed, interval.method, "nats")


def distinct_figure(samples: Sequence[Sequence[Hashable]], n: int, seed: int) -> Figure | None:
    """distinct-n = different n-grams / n-grams of all samples (Li et al. 2016, arXiv 1510.03055); None without any."""
    found = [Counter(zip(*(sample[start:] for start in range(n)), strict=False)) for sample in samples]
    together: Counter[tuple[Hashable, ...]] = Counter()
    for counts in found:
        together.update(counts)
    total = sum(together.values())
    if total == 0:
        return None
    value = len(together) / total
    left_out = []
    for counts in found:  # what is in one sample alone goes with it
        rest = total - sum(counts.values())
        alone = sum(together[gram] == count for gram, count in counts.items())
        left_out.append((len(together) - alone) / rest if rest else value)
    interval = jackknife(value, np.array(left_out), what="samples")
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return Figure(f"distinct_{n}", value, low, high, len(samples), "samples", seed, interval.method, "", "of words")
