"""Distances and self-BLEU against closed forms, hand counts and sacrebleu."""

import math

import numpy as np
import pytest
import sacrebleu

from model_factory.evaluation.metrics.distances import gaussian_frechet, jensen_shannon, latent_distance, word_distance
from model_factory.evaluation.metrics.texts import self_bleu, self_bleu_figure
from model_factory.evaluation.rows import normalise_spaces

WORDS = [text.split() for text in ("a dog sees a cat", "two dogs see it", "a cat", "the dog sees the dog sees")]


def test_jensen_shannon_matches_closed_form():
    p = np.array([0.5, 0.25, 0.25, 0.0])
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon(np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.25, 0.75])) == 1
    half = jensen_shannon(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    assert half == pytest.approx(1.5 - 0.75 * math.log2(3))  # H(3/4, 1/4) - 1/2, with H = 2 - 3/4 log2 3
    assert jensen_shannon(p, p[::-1]) == jensen_shannon(p[::-1], p)


@pytest.mark.parametrize("n", [1, 2])
def test_word_distance_of_equal_disjoint_and_empty_sides(n):
    value, interval = word_distance(WORDS, WORDS, n)
    assert value == 0
    assert interval.low == 0
    value, interval = word_distance(WORDS, [["x", "y", "z"]], n)
    assert (value, interval.low, interval.high) == pytest.approx((1, 1, 1))
    assert interval.method == "jackknife over samples"
    assert word_distance([["one"]], [], n) is None
    assert word_distance([[], []], WORDS, n) is None


def test_word_distance_jackknife_leaves_one_sample_out():
    reference = WORDS[:2]
    value, interval = word_distance(WORDS, reference, 1)
    others = np.array([word_distance(WORDS[:i] + WORDS[i + 1 :], reference, 1)[0] for i in range(4)])
    spread = 1.959964 * np.sqrt(3 / 4 * np.square(others - others.mean()).sum())
    assert interval.high - value == pytest.approx(min(spread, 1 - value), abs=1e-6)
    assert interval.low == pytest.approx(max(0, value - spread), abs=1e-6)
    _, grouped = word_distance(WORDS * 50, reference, 1)
    assert grouped.method == "jackknife over 100 groups of samples"


def test_frechet_matches_closed_form():
    rng = np.random.default_rng(0)
    assert gaussian_frechet(np.zeros(3), np.eye(3), np.full(3, 2.0), np.eye(3)) == pytest.approx(12)
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])  # diagonal: the sum of (sigma_a - sigma_b)^2
    assert gaussian_frechet(np.zeros(3), np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(1 + 1 + 2.5**2)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = [turn @ np.diag(part) @ turn.T for part in (a, b)]
    assert gaussian_frechet(np.zeros(3), turned[0], np.zeros(3), turned[1]) == pytest.approx(8.25)
    # of A = [[2, 1], [1, 2]] and I: tr A + 2 - 2 tr A^(1/2), A having the eigenvalues 3 and 1
    found = gaussian_frechet(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2), np.eye(2))
    assert found == pytest.approx(6 - 2 * (math.sqrt(3) + 1))


def test_latent_distance_fits_gaussians_to_rows():
    rows = np.random.default_rng(1).normal(size=(300, 4))
    assert latent_distance(rows, rows)[0] == pytest.approx(0, abs=1e-12)
    value, interval = latent_distance(rows + 3, rows)
    assert value == pytest.approx(4 * 9)
    assert interval.low < value < interval.high
    assert latent_distance(rows[:1], rows) is None
    assert latent_distance(rows[:3], rows)[0] > 0  # singular, and finite
    assert latent_distance(rows[:, :1], rows[:, :1] * 2)[0] == pytest.approx(
        (rows[:, 0].std(ddof=1)) ** 2 + rows[:, 0].mean() ** 2
    )
    left_out = [latent_distance(np.delete(rows[:5], i, 0), rows)[0] for i in range(5)]
    value, interval = latent_distance(rows[:5], rows)
    spread = 1.959964 * np.sqrt(4 / 5 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert interval.high - value == pytest.approx(spread, rel=1e-5)


def test_self_bleu_of_equal_samples_is_100():
    same = [["a", "dog", "sees", "a", "cat"]] * 3
    assert self_bleu(same) == pytest.approx([100, 100, 100])
    (figure,) = self_bleu_figure(same, 0)
    assert (figure.value, figure.low, figure.high, figure.n) == pytest.approx((100, 100, 100, 3))
    assert self_bleu([["a", "b"], ["c", "d"]]) == [0, 0]
    assert self_bleu_figure([["a"], []], 0) == []


def test_self_bleu_matches_sacrebleu():
    rng = np.random.default_rng(3)
    samples = [[str(word) for word in rng.integers(4, size=length)] for length in rng.integers(1, 12, size=30)]
    metric = sacrebleu.metrics.BLEU(tokenize="none", effective_order=True)
    texts = [" ".join(sample) for sample in samples]
    wanted = [metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    assert self_bleu(samples) == pytest.approx(wanted)


def test_normalise_spaces_leaves_one_space():
    assert normalise_spaces(" a  dog\n sees ") == "a dog sees"
