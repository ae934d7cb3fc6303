"""The benchmark of learning: its figure is a bound, runs are paired, and finished runs are not repeated."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import learning
from benchmarks.learning import SETUPS, Rows, Setup, build, evaluate, main, paired

TINY = Setup(width=8, layers=1, heads=1, length=16, batch=2)


@pytest.mark.parametrize("padded", [False, True])
def test_a_network_that_knows_nothing_is_at_log_n(padded: bool) -> None:
    """An untrained network is uniform, and the bound that numbers of masks estimate is then log 7 nats a token."""
    tokens = torch.randint(7, (1024, 16), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(1024)[:, None] % 16 + 1 if padded else torch.full((1024, 1), 16)
    model = build(TINY, "plain", 7).eval()
    assert evaluate(model, Rows(tokens, torch.arange(16) < lengths)) == pytest.approx(math.log(7), rel=0.02)


@pytest.mark.parametrize("setup", ["udlm", "sedd"])
def test_other_objectives_are_evaluated_at_drawn_times(setup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "EVALUATED", 64)
    model = build(replace(SETUPS[setup], width=8, layers=1, heads=1, length=16), "conv5", 7).eval()
    rows = Rows(torch.randint(7, (64, 16)), torch.ones(64, 16, dtype=torch.bool))
    assert evaluate(model, rows) == evaluate(model, rows) == pytest.approx(math.log(7), rel=0.5)


def test_runs_are_paired_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(learning.SETUPS, "characters", TINY)
    monkeypatch.setattr(learning, "EVALUATED", 4)
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text("the cat sat on the mat , and so on . " * 20)
    threads = torch.get_num_threads()
    try:
        for _ in range(2):
            arguments = [str(tmp_path), "--seeds", "2", "--steps", "2", "--output", str(tmp_path / "runs.jsonl")]
            assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert err.count("plain, seed") == err.count("conv5, seed") == 2
    first, second = (part.split("\n\n", 1)[1].split("\n\n")[0].strip() for part in out.split("`python -m")[1:])
    assert first == second
    assert "2 pairs" in first


def test_differences_have_students_error_and_p() -> None:
    mean, error, p = paired([1.0, 2.0, 3.0, 4.0])
    assert (mean, error, p) == pytest.approx((2.5, 0.6455, 0.0305), abs=1e-4)
