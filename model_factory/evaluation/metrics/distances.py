"""Distances between samples and text: Jensen-Shannon divergence of words, Frechet distance of latents.

Both are positive even between two sets from one distribution, and larger for smaller sets. Compare them with the same
distance of equally many training texts, which is the floor.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from model_factory.evaluation.figure import Figure
from model_factory.evaluation.metrics.intervals import Interval, Values, jackknife

GROUPS = 100
"""Maximum number of groups that the jackknife leaves out, one after another."""


def jensen_shannon(p: Values, q: Values) -> float:
    """Compute the Jensen-Shannon divergence in bits of two distributions [n] (Lin 1991): H((p + q) / 2) - (H(p) + H(q)) / 2.

    It is 0 for equal distributions, 1 where no outcome has probability under both.
    """
    found = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return min(1.0, max(0.0, found))


def word_distance(
    samples: Sequence[Sequence[Hashable]], texts: Iterable[Sequence[Hashable]], n: int, *, what: str = "samples"
) -> tuple[float, Interval] | None:
    """Compute `jensen_shannon` of the word n-grams in samples and in texts; None where either side has no n-gram.

    The interval is over samples; the texts are fixed.
    """
    reference = Counter(chain.from_iterable(_grams(text, n) for text in texts))
    counts = [Counter(_grams(sample, n)) for sample in samples]
    index = {gram: position for position, gram in enumerate(dict.fromkeys(chain(reference, *counts)))}
    wanted = _vector([reference], index)
    groups = [_vector(group, index) for group in _groups(counts)]
    total = np.sum(groups, axis=0) if groups else wanted * 0
    if not total.sum() or not wanted.sum():
        return None
    q = wanted / wanted.sum()
    left_out = [total - group for group in groups]
    value = jensen_shannon(total / total.sum(), q)
    others = [jensen_shannon(rest / rest.sum(), q) for rest in left_out if rest.sum()]
    return value, _bounded(jackknife(value, np.array(others), what=_over(len(groups), len(samples), what)), 1.0)


def gaussian_frechet(mean_a: Values, cov_a: Values, mean_b: Values, cov_b: Values) -> float:
    """Compute the squared Frechet (Wasserstein-2) distance of two Gaussians, means [D], covariances [D, D].

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson, Landau 1982). The trace of the root is the sum of the roots of the
    eigenvalues of B^(1/2) A B^(1/2), which equal those of A B.
    """
    return _frechet_to(mean_b, cov_b)(mean_a, cov_a)


def latent_distance(drawn: Values, reference: Values, *, what: str = "samples") -> tuple[float, Interval] | None:
    """Compute `gaussian_frechet` of Gaussians fitted to rows [n, D] and [m, D]; None where a side has fewer than 2 rows.

    Covariances divide by the number of rows minus one. The interval is over the drawn rows; the reference is fixed.
    """
    if min(len(drawn), len(reference)) < 2:
        return None
    drawn, reference = drawn.astype(np.float64), reference.astype(np.float64)
    distance = _frechet_to(*_fit(reference))
    value = distance(*_fit(drawn))
    number = min(GROUPS, len(drawn))
    parts = [np.delete(drawn, np.arange(group, len(drawn), number), axis=0) for group in range(number)]
    others = [distance(*_fit(part)) for part in parts if len(part) > 1]
    return value, _bounded(jackknife(value, np.array(others), what=_over(number, len(drawn), what)), np.inf)


def distance_figure(
    name: str, found: tuple[float, Interval] | None, count: int, of: str, seed: int, unit: str, note: str
) -> list[Figure]:
    """Return the figure of a distance, or an empty list where there was nothing to measure."""
    if found is None:
        return []
    value, interval = found
    return [Figure(name, value, interval.low, interval.high, count, of, seed, interval.method, unit, note)]


def _frechet_to(mean: Values, cov: Values) -> Callable[[Values, Values], float]:
    """Return a function that computes `gaussian_frechet` to one Gaussian; its matrix root is computed once."""
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(other_mean: Values, other_cov: Values) -> float:
        shared = np.sqrt(np.linalg.eigvalsh(root @ other_cov @ root).clip(0)).sum()
        apart = np.square(other_mean - mean).sum()
        return max(0.0, float(apart + np.trace(other_cov) + np.trace(cov) - 2 * shared))

    return distance


def _fit(rows: Values) -> tuple[Values, Values]:
    return rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))


def _entropy(p: Values) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def _grams(words: Sequence[Hashable], n: int) -> Iterable[tuple[Hashable, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _groups(counts: list[Counter[tuple[Hashable, ...]]]) -> list[list[Counter[tuple[Hashable, ...]]]]:
    number = min(GROUPS, len(counts))
    return [counts[first::number] for first in range(number)]


def _vector(counts: Iterable[Counter[tuple[Hashable, ...]]], index: dict[tuple[Hashable, ...], int]) -> Values:
    found: NDArray[np.float64] = np.zeros(len(index))
    for one in counts:
        for gram, count in one.items():
            found[index[gram]] += count
    return found


def _over(groups: int, count: int, what: str) -> str:
    return what if groups == count else f"{groups} groups of {what}"


def _bounded(interval: Interval, upper: float) -> Interval:
    return Interval(max(0.0, interval.low), min(upper, interval.high), interval.method)
