"""Certificates of the documentation can be recomputed."""

from pathlib import Path

import pytest

from benchmarks.certificates import all_certificates, draw, make_process, strata_variances, table
from model_factory.diffusion.objectives.losses import SubsLoss
from tests.oracles.diffusion_toy import Toy


def test_certificates_have_a_row_per_combination(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    steps = [4, 8]
    certificates = all_certificates(steps, toys=1)
    assert len(certificates) == 3 * 10 + 3 * 4 + 3 * 4
    lines = table(certificates, steps).splitlines()
    assert "| absorbing | cosine | first_hitting | exact | 0 | 0 | - |" in lines
    for row in certificates:
        if row.sampler == "entropy_bounded":  # determines its own number of steps
            assert row.distances[1] == row.distances[0] > 1e-2
        else:
            assert row.distances[1] < max(row.distances[0], 1e-12)
    draw(certificates, steps, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_strata_remove_variance_between_strata() -> None:
    objective = SubsLoss(make_process("absorbing", "cosine"))
    for independent, stratified in strata_variances(objective, Toy.random(0, absorbing=True), (4, 64)):
        assert 0.5 * independent < stratified < 0.9 * independent
