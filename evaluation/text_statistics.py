"""Statistics of samples without a reference: entropy and distinct n-grams."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from evaluation.figure import Figure
from evaluation.intervals import bootstrap_ratio, jackknife


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
