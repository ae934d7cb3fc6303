"""Confidence intervals against closed forms."""

import numpy as np
import pytest
from scipy.stats import binomtest

from model_factory.evaluation.metrics.intervals import bootstrap, bootstrap_ratio, jackknife, wilson

SAMPLE = np.random.default_rng(0).normal(3.0, 2.0, 500)
HALF = 1.959964 * SAMPLE.std(ddof=1) / np.sqrt(len(SAMPLE))


def test_bootstrap_of_a_normal_mean_matches_formula():
    low, high, method = bootstrap_ratio(SAMPLE, seed=1, what="rows", resamples=20_000)
    assert method == "bootstrap over rows"
    assert low == pytest.approx(SAMPLE.mean() - HALF, abs=0.05 * HALF)
    assert high == pytest.approx(SAMPLE.mean() + HALF, abs=0.05 * HALF)


def test_bootstrap_of_a_ratio_matches_delta_method():
    sizes = np.random.default_rng(1).integers(1, 9, len(SAMPLE)).astype(float)
    totals = SAMPLE * sizes
    ratio = totals.sum() / sizes.sum()
    error = np.sqrt(np.square(totals - ratio * sizes).sum()) / sizes.sum()
    low, high, _ = bootstrap_ratio(totals, sizes, seed=1, what="rows", resamples=20_000)
    assert (low, high) == pytest.approx((ratio - 1.96 * error, ratio + 1.96 * error), abs=0.1 * error)


def test_bootstrap_coverage_is_95_percent():
    rng = np.random.default_rng(2)
    found = [bootstrap_ratio(rng.normal(0, 1, 60), seed=s, what="rows", resamples=400) for s in range(400)]
    held = np.mean([low < 0 < high for low, high, _ in found])
    assert 0.90 < held < 0.98


def test_bootstrap_is_seeded():
    first, again, other = (bootstrap_ratio(SAMPLE, seed=seed, what="rows") for seed in (5, 5, 6))
    assert first == again != other
    assert bootstrap(lambda i: SAMPLE[i].mean(), 500, seed=3, what="rows")[:2] == pytest.approx(
        bootstrap_ratio(SAMPLE, seed=4, what="rows")[:2], abs=0.05
    )


def test_jackknife_of_a_mean_matches_formula():
    left_out = (SAMPLE.sum() - SAMPLE) / (len(SAMPLE) - 1)
    low, high, _ = jackknife(SAMPLE.mean(), left_out, what="rows")
    assert (low, high) == pytest.approx((SAMPLE.mean() - HALF, SAMPLE.mean() + HALF), rel=1e-6)


@pytest.mark.parametrize("hits", [0, 1, 8, 10])
def test_wilson_matches_scipy(hits):
    expected = binomtest(hits, 10).proportion_ci(method="wilson")
    assert wilson(hits, 10)[:2] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_of_one_item_is_nan():
    for interval in (
        bootstrap_ratio(np.ones(1), seed=0, what="rows"),
        jackknife(1.0, np.ones(1), what="rows"),
        wilson(0, 0),
    ):
        assert np.isnan(interval.low)
        assert interval.method == "none: fewer than 2 items"
