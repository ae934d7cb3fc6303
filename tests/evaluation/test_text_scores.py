"""Scores of texts and molecules against sacrebleu, hand counts and definitions."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import sacrebleu

from model_factory.evaluation.metrics.molecules import canonical_smiles, molecule_figures, split_at, tanimoto
from model_factory.evaluation.metrics.texts import distinct_figure, entropy_figure, sample_entropy
from model_factory.evaluation.metrics.translation import bleu_and_chrf

REFERENCES = [
    "a man in a blue shirt is standing on a ladder .",
    "two dogs play in the snow .",
    "a girl sits on a bench .",
]
FOUND = ["a man in a blue shirt stands on a ladder .", "two dogs are playing in snow .", "a girl sits on the bench ."]


def test_bleu_and_chrf_match_sacrebleu():
    report = bleu_and_chrf(FOUND, REFERENCES, seed=1)
    bleu, chrf = report.figures
    assert bleu.value == sacrebleu.corpus_bleu(FOUND, [REFERENCES], force=True).score
    assert chrf.value == sacrebleu.corpus_chrf(FOUND, [REFERENCES]).score
    assert bleu.low < bleu.value < bleu.high
    assert (bleu.n, bleu.of, bleu.seed) == (3, "sentences", 1)
    assert "tok:13a" in report.notes[0]
    rng = np.random.default_rng(1)
    drawn = [rng.integers(3, size=3) for _ in range(1000)]
    scores = [
        sacrebleu.corpus_bleu([FOUND[i] for i in rows], [[REFERENCES[i] for i in rows]], force=True).score
        for rows in drawn
    ]
    assert (bleu.low, bleu.high) == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_bleu_of_perfect_and_single_translations():
    bleu, chrf = bleu_and_chrf(REFERENCES, REFERENCES, seed=0).figures
    assert (bleu.value, bleu.low, chrf.value) == pytest.approx((100, 100, 100))
    bleu, _ = bleu_and_chrf(FOUND[:1], REFERENCES[:1], seed=0).figures
    assert math.isnan(bleu.low)


@pytest.mark.parametrize(
    ("found", "references"),
    [
        (["abc def ghi jkl", "x", "y"], ["abc def ghi jkl", "b", "c"]),
        (["a b c d e", "", ""], ["a b c d e", "b", "c"]),
        (["hello world", "zzz"], ["hello there world", "aaa bbb"]),
        (["q", "w"], ["a b", "c d"]),
        (["", ""], ["", "a"]),
    ],
)
def test_bleu_of_weak_translations_has_an_interval(found, references):
    """Some resamples of these have the score 0, others not."""
    report = bleu_and_chrf(found, references, seed=0)
    assert report.failures == []
    for figure in report.figures:
        assert 0 <= figure.low <= figure.value <= figure.high <= 100 + 1e-9


def test_sample_entropy_by_hand():
    assert sample_entropy("aabb") == pytest.approx(math.log(2))
    assert sample_entropy("aaaa") == 0
    assert sample_entropy("") == 0
    assert entropy_figure(["aabb", "aaaa"], 0).value == pytest.approx(math.log(2) / 2)


def test_distinct_n_and_jackknife_match_brute_force():
    samples = [["a", "b", "a"], ["b", "c"], ["d", "a", "b", "a"]]
    assert distinct_figure(samples, 1, 0).value == pytest.approx(4 / 9)
    figure = distinct_figure(samples, 2, 0)
    assert figure.value == pytest.approx(4 / 6)  # ab ba bc da of ab ba bc da ab ba
    left_out = []
    for index in range(3):
        grams = Counter(g for s in samples[:index] + samples[index + 1 :] for g in pairwise(s))
        left_out.append(len(grams) / sum(grams.values()))
    spread = 1.959964 * np.sqrt(2 / 3 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert figure.low == pytest.approx(max(0, 4 / 6 - spread), abs=1e-6)
    assert distinct_figure([["a"]], 2, 0) is None


def test_molecule_figures_by_hand():
    pytest.importorskip("rdkit")
    smiles = ["CCO", "OCC", "c1ccccc1", "C1CC", "CCN", "not one"]
    report = molecule_figures(smiles, ["CCO", "CCC"], 0)
    assert report.value("validity") == pytest.approx(4 / 6)
    assert report.value("uniqueness") == pytest.approx(3 / 4)  # CCO twice
    assert report.value("novelty") == pytest.approx(2 / 3)  # benzene and CCN
    valid = [canonical_smiles(one) for one in ("CCO", "OCC", "c1ccccc1", "CCN")]
    similar = [[float(tanimoto([a, b])[0, 1]) for b in valid] for a in valid]
    assert report.value("internal_diversity") == pytest.approx(1 - np.mean(similar))
    assert molecule_figures(["CCO", "OCC"], [], 0).value("internal_diversity") == 0
    assert molecule_figures(["X", "("], [], 0).notes == [
        "no sample is a molecule that RDKit can parse, so only validity is measured"
    ]


def test_diversity_jackknife_leaves_one_molecule_out():
    pytest.importorskip("rdkit")
    names = ["CCO", "c1ccccc1", "CCN", "CC(=O)O", "CCCl"]
    figure = next(f for f in molecule_figures(names, [], 0).figures if f.name == "internal_diversity")
    left_out = np.array([1 - tanimoto(names[:i] + names[i + 1 :]).mean() for i in range(5)])
    spread = 1.959964 * np.sqrt(4 / 5 * np.square(left_out - left_out.mean()).sum())
    assert figure.high - figure.value == pytest.approx(min(spread, 1 - figure.value), abs=1e-6)


def test_split_at_end_tokens():
    assert split_at([2, 5, 6, 2, 2, 7], 2) == [[5, 6], [7]]
