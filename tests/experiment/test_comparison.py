"""Comparison of diffusion models: valid files, models of equal size, text as in text8."""

import argparse
import math
from pathlib import Path

import pytest

from benchmarks.diffusion import (
    BASE,
    CONTENDERS,
    format_table,
    include_first_character,
    make_corpus,
    normalise_text,
    overrides,
)
from model.model_factory import create_model
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import read_experiment


def test_text_is_letters_and_single_spaces() -> None:
    assert normalise_text("The <unk> 3 Cats' eyes -- ITALIC\n\nEnd.") == "the cats eyes italic end"


def test_models_have_similar_sizes(tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20, encoding="utf-8")
    (tmp_path / "test.txt").write_text("pack my box with five dozen jugs\n" * 20, encoding="utf-8")
    args = argparse.Namespace(output=str(tmp_path / "out"), steps=60)
    make_corpus(tmp_path, tmp_path / "out" / "corpus_dir")
    sizes = {}
    for name in CONTENDERS:
        config = with_vocabulary(read_experiment(BASE, overrides(name, 0, args)).config)
        assert config.model is not None
        model = create_model(config.model)
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    smallest, largest = min(sizes.values()), max(sizes.values())
    assert largest < 1.7 * smallest  # the decoder has no adaLN modulation


def test_nll_includes_the_first_character() -> None:
    found = include_first_character({"bits": 2.0, "low": 1.0, "high": 3.0}, [0, 0, 1, 1], 4)
    assert found["bits"] == pytest.approx((2.0 * 3 + 1.0) / 4)


def test_table_shows_means_over_seeds() -> None:
    one = {"name": "mdlm", "bits": 2.0, "low": 1.9, "high": 2.1, "diffusion_part": 2.0, "entropy": math.log(2)}
    table = format_table([one, {**one, "bits": 3.0}])
    assert "| mdlm | 2.500 |" in table
    assert "2.000 + 0.000 + 0.000" in table
