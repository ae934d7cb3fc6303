"""Checks of arguments at their exact bounds, and dtypes of results."""

from math import log

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import (
    SettingError,
    ShapeError,
    SigmaError,
    TimeError,
    TokenError,
    check_count,
    check_number,
    check_sigma,
    check_time,
    check_tokens,
)
from model_factory.diffusion.gaussian_schedule import MAX_BETA, beta_table, check_betas, strided_times
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph


def test_sigma_and_time_convert_to_float64_exactly() -> None:
    """0.1 in float32 has an error of 1.5e-9."""
    for value in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        for checked in (check_sigma("sigma", value), check_time("t", value), check_time("t", value, allow_zero=True)):
            assert checked.dtype == torch.float64
            assert float(checked) == 0.1
    assert check_sigma("sigma", torch.tensor([0.5])).dtype == torch.float64
    assert check_time("t", torch.tensor([0.5])).dtype == torch.float64
    assert check_sigma("sigma", torch.zeros(2)).tolist() == [0, 0]
    assert check_time("t", torch.tensor([1.0])).tolist() == [1]
    assert check_time("t", 0.0, allow_zero=True) == 0
    for wrong in (0.0, -0.1, 1.0 + 1e-12, float("nan")):
        with pytest.raises(TimeError, match=rf"t: got {wrong}.*\(0, 1\]"):
            check_time("t", torch.tensor([[0.5, wrong]], dtype=torch.float64))
    for wrong in (-1e-9, float("inf"), float("nan")):
        with pytest.raises(SigmaError, match=f"sigma: got {wrong}"):
            check_sigma("sigma", torch.tensor([[0.5, wrong]], dtype=torch.float64))


def test_number_checks_at_bounds() -> None:
    assert check_number("x", 1, 1.0, 2.0) == 1.0
    assert isinstance(check_number("x", 1, 1.0, 2.0), float)
    assert check_number("x", 2.0, 1.0, 2.0, low_open=True) == 2.0
    refused: list[tuple[object, bool, str]] = [
        (1.0, True, r"\(1, 2\]"),
        (0.999, False, r"\[1, 2\]"),
        (2.001, True, "2"),
    ]
    for value, low_open, message in [
        *refused,
        (True, False, "True"),
        ("1", False, "'1'"),
        (float("nan"), False, "nan"),
    ]:
        with pytest.raises(SettingError, match=f"x: got .*{message}"):
            check_number("x", value, 1.0, 2.0, low_open=low_open)  # type: ignore[arg-type]
    assert check_count("n", 1) == 1
    for count in (0, -1, True, 1.0):
        with pytest.raises(SettingError, match=f"n: got {count}"):
            check_count("n", count)  # type: ignore[arg-type]


def test_token_checks_at_bounds() -> None:
    check_tokens("x", torch.tensor([0, 4]), 5)
    check_tokens("x", torch.zeros(0, dtype=torch.int64), 5)
    for token in (-1, 5):
        with pytest.raises(TokenError, match=f"x: got token {token}; expected ids from 0 to 4"):
            check_tokens("x", torch.tensor([0, token, 4]), 5)
    with pytest.raises(ShapeError, match="x"):
        check_tokens("x", torch.tensor([0.0]), 5)


def test_beta_checks_at_bounds() -> None:
    for kind, low, high in (("linear", MAX_BETA, MAX_BETA), ("constant", 1e-9, 1e-9), ("linear", 1e-9, MAX_BETA)):
        table = beta_table(kind, 3, low, high)  # type: ignore[arg-type]
        assert table.dtype == torch.float64
        assert (len(table), float(table[1]), float(table[-1])) == (4, low, high)
    refused = [(0.0, 0.1, "beta_1: got 0"), (0.1, 0.0, r"beta_2: got 0.0; expected a number in \(0, 0.999\]")]
    for low, high, message in [*refused, (0.1, 0.9991, "beta_2: got 0.9991"), (0.9995, 0.9, "beta_1: got 0.9995")]:
        with pytest.raises(SettingError, match=message):
            beta_table("linear", 3, low, high)
    check_betas(torch.tensor([0.5, 0.1]))
    for betas, index in (([0.0, 0.0, 0.1], 1), ([0.0, 0.1, 0.0], 2), ([1.0, 0.1], 0), ([-0.1, 0.1], 0)):
        with pytest.raises(SettingError, match=rf"betas\[{index}\]: got {betas[index]}"):
            check_betas(torch.tensor(betas))
    for shape in (torch.zeros(1), torch.zeros(3, dtype=torch.int64), torch.tensor(0.1)):
        with pytest.raises(ShapeError, match="betas"):
            check_betas(shape)
    assert check_betas(torch.tensor([0.0, 0.5], requires_grad=True)).dtype == torch.float64


@pytest.mark.parametrize(("num_steps", "steps"), [(10, 3), (10, 4), (7, 5), (1000, 7)])
def test_strided_times_are_nearest_integers(num_steps: int, steps: int) -> None:
    times = strided_times(num_steps, steps)
    for index, time in enumerate(times):
        assert abs(time - num_steps * (1 - index / steps)) <= 0.5


@pytest.mark.parametrize("alpha", [0.9, 0.3, 1e-4])
def test_prior_of_uniform_noise_is_kl_divergence(alpha: float) -> None:
    """Compare with KL of (alpha + (1 - alpha) / N, (1 - alpha) / N, ...) from uniform, term by term."""
    n = 5
    q = [alpha + (1 - alpha) / n] + [(1 - alpha) / n] * (n - 1)
    expected = sum(share * log(share * n) for share in q)
    found = UniformGraph(n).prior_part(torch.tensor([[0, 3]]), torch.tensor([-log(alpha)], dtype=torch.float64))
    torch.testing.assert_close(found, torch.full((1, 2), expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_parameterisation_of_float32_output_is_float64() -> None:
    """Only the output is rounded to float32, not the logarithm."""
    x_t, sigma = torch.tensor([[5, 1]]), torch.tensor([0.7])
    for graph in (AbsorbingGraph(5), UniformGraph(6)):
        logits = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(0))
        for reading in (X0Parameterisation(graph), ScoreParameterisation(graph, True)):
            for read in (reading.log_x0, reading.log_score):
                found: Tensor = read(logits, x_t, sigma)
                assert found.dtype == torch.float64
                torch.testing.assert_close(found, read(logits.double(), x_t, sigma.double()), rtol=0, atol=0)
