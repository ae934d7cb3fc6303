"""Confidence intervals: bootstrap, jackknife, and Wilson's interval of a proportion.

All treat the items (rows, sentences, recordings, samples) as independent. Rows cut from one document are not quite
independent, so their intervals are a little too narrow. Statistics that count different items (distinct n-grams, unique
molecules) use the jackknife, because a bootstrap resample contains items twice.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_factory.evaluation.figure import LEVEL

Values = NDArray[np.float64]
RESAMPLES = 1000
_Z = 1.959963984540054
_BLOCK = 2**22


class Interval(NamedTuple):
    """Interval: its lower and upper end and the name of its method."""

    low: float
    high: float
    method: str


NO_INTERVAL = Interval(float("nan"), float("nan"), "none: fewer than 2 items")


def bootstrap_ratio(
    numerators: Values, denominators: Values | None = None, *, seed: int, what: str, resamples: int = RESAMPLES
) -> Interval:
    """Compute the percentile bootstrap of sum(numerators) / sum(denominators) over items [n] (Efron 1979).

    Without denominators it is that of the mean. Items are drawn with replacement, numerator and denominator together,
    `resamples` times from a generator seeded by `seed`.
    """
    denominators = np.ones_like(numerators) if denominators is None else denominators
    count = len(numerators)
    if count < 2:
        return NO_INTERVAL
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    block = max(1, _BLOCK // count)  # bounds the memory
    for first in range(0, resamples, block):
        drawn = rng.integers(count, size=(min(block, resamples - first), count))
        bottom = denominators[drawn].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[first : first + len(drawn)] = numerators[drawn].sum(1) / bottom
    low, high = _percentiles(found[np.isfinite(found)])
    return Interval(low, high, f"bootstrap over {what}")


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], count: int, *, seed: int, what: str) -> Interval:
    """Compute the percentile bootstrap of a statistic of item indices, int64 [count] from 0 to count - 1."""
    if count < 2:
        return NO_INTERVAL
    rng = np.random.default_rng(seed)
    found = np.array([statistic(rng.integers(count, size=count)) for _ in range(RESAMPLES)])
    low, high = _percentiles(found)
    return Interval(low, high, f"bootstrap over {what}")


def jackknife(value: float, left_out: Values, *, what: str) -> Interval:
    """Compute the normal interval with the jackknife variance (Quenouille 1949, Tukey 1958).

    `left_out` [n] is the statistic without each item: var = (n - 1) / n * sum (left_out - mean)^2.
    """
    count = len(left_out)
    if count < 2:
        return NO_INTERVAL
    spread = float(np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum()))
    return Interval(value - _Z * spread, value + _Z * spread, f"jackknife over {what}")


def wilson(hits: int, count: int) -> Interval:
    """Compute Wilson's interval (1927) of the proportion hits / count, which is valid near 0 and 1 too."""
    if count == 0:
        return NO_INTERVAL
    share, z2 = hits / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Interval(max(0.0, float(centre - half)), min(1.0, float(centre + half)), "Wilson")


def _percentiles(found: Values) -> tuple[float, float]:
    if len(found) == 0:
        return float("nan"), float("nan")
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)
