"""How far samples lie from text: Jensen-Shannon divergence of their words, Frechet distance of their latents.

Both are above 0 even between two sets of one law, the more so the fewer there are: the same distance of equally many
texts of the training data is the floor to read them beside.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from evaluation.figure import Figure
from evaluation.intervals import Interval, Values, jackknife

GROUPS = 100
"""At most so many groups of samples are left out, one after another."""


def jensen_shannon(p: Values, q: Values) -> float:
    """Jensen-Shannon divergence in bits of two distributions [n] (Lin 1991): H((p + q) / 2) - (H(p) + H(q)) / 2.

    0 where they are the same, 1 where no outcome has probability under both.
    """
    found = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return min(1.0, max(0.0, found))


def word_distance(
    samples: Sequence[Sequence[Hashable]], texts: Iterable[Sequence[Hashable]], n: int, *, what: str = "samples"
) -> tuple[float, Interval] | None:
    """`jensen_shannon` of the n-grams of words in samples and in texts; None where either has none.

    The interval is over samples, the texts staying as they are.
    """
    reference = Counter(chain.from_iterable(_grams(text, n) for text in texts))
    counts = [Counter(_grams(sample, n)) for sample in samples]
    places = {gram: place for place, gram in enumerate(dict.fromkeys(chain(reference, *counts)))}
    told = _vector([reference], places)
    groups = [_vector(group, places) for group in _groups(counts)]
    total = np.sum(groups, axis=0) if groups else told * 0
    if not total.sum() or not told.sum():
        return None
    q = told / told.sum()
    left_out = [total - group for group in groups]
    value = jensen_shannon(total / total.sum(), q)
    others = [jensen_shannon(rest / rest.sum(), q) for rest in left_out if rest.sum()]
    return value, _bounded(jackknife(value, np.array(others), what=_over(len(groups), len(samples), what)), 1.0)


def gaussian_frechet(mean_a: Values, cov_a: Values, mean_b: Values, cov_b: Values) -> float:
    """Squared Frechet (Wasserstein-2) distance of two Gaussians, means [D] and covariances [D, D] (Dowson, Landau 1982).

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), the last trace being the sum of the roots of the eigenvalues of
    B^(1/2) A B^(1/2), which are those of A B.
    """
    return _frechet_to(mean_b, cov_b)(mean_a, cov_a)


def latent_distance(drawn: Values, reference: Values, *, what: str = "samples") -> tuple[float, Interval] | None:
    """`gaussian_frechet` of the Gaussians fitted to rows [n, D] and [m, D]; None where a side has fewer than 2.

    Covariances divide by the rows less one. The interval is over the drawn rows, the reference staying as it is.
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
    """The figure of a distance; none where there is nothing to measure."""
    if found is None:
        return []
    value, interval = found
    return [Figure(name, value, interval.low, interval.high, count, of, seed, interval.method, unit, note)]


def _frechet_to(mean: Values, cov: Values) -> Callable[[Values, Values], float]:
    """`gaussian_frechet` to a Gaussian whose root is taken once."""
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


def _vector(counts: Iterable[Counter[tuple[Hashable, ...]]], places: dict[tuple[Hashable, ...], int]) -> Values:
    found: NDArray[np.float64] = np.zeros(len(places))
    for one in counts:
        for gram, count in one.items():
            found[places[gram]] += count
    return found


def _over(groups: int, count: int, what: str) -> str:
    return what if groups == count else f"{groups} groups of {what}"


def _bounded(interval: Interval, most: float) -> Interval:
    return Interval(max(0.0, interval.low), min(most, interval.high), interval.method)
