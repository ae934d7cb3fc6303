"""Noise schedules: derivative, inverse, both ends, and invalid arguments."""

import math

import pytest
import torch

from model_factory.diffusion.errors import SettingError, SigmaError, TimeError
from model_factory.diffusion.processes.noise_schedule import (
    MAX_SIGMA,
    CosineNoise,
    GeometricNoise,
    LinearNoise,
    LogLinearNoise,
    NoiseSchedule,
)

SCHEDULES = [
    LogLinearNoise(),
    LogLinearNoise(0.0),
    CosineNoise(),
    CosineNoise(0.0),
    GeometricNoise(1e-4, 20.0),
    LinearNoise(0.0, 20.0),
    LinearNoise(1e-3, 5.0),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_rate_is_derivative_of_sigma(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(slope, schedule.rate(t).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_alpha_and_inverse_match_sigma(schedule: NoiseSchedule) -> None:
    t = torch.linspace(1e-6, 0.999, 200, dtype=torch.float64)
    sigma = schedule.sigma(t)
    assert sigma.dtype == torch.float64
    assert bool((sigma.diff() > 0).all())
    torch.testing.assert_close(schedule.alpha(t), torch.exp(-sigma), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.inverse(sigma), t, rtol=1e-10, atol=1e-12)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(schedule.sigma(ends)), ends)


def test_schedule_alpha_matches_papers() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(LogLinearNoise(1e-3).alpha(t), 1 - (1 - 1e-3) * t)
    torch.testing.assert_close(CosineNoise(1e-3).alpha(t), 1e-3 + (1 - 1e-3) * torch.cos(math.pi / 2 * t))
    assert float(GeometricNoise(1e-4, 20.0).sigma(0.0)) == pytest.approx(1e-4)
    assert float(GeometricNoise(1e-4, 20.0).sigma(1.0)) == pytest.approx(20.0)


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_schedule_ending_at_alpha_0_has_finite_weight(schedule: NoiseSchedule) -> None:
    assert float(schedule.alpha(1.0)) == 0.0
    assert float(schedule.sigma(1.0)) == MAX_SIGMA
    weight = schedule.rate(1.0) / torch.expm1(schedule.sigma(1.0))  # -alpha' / (1 - alpha)
    assert float(weight) == pytest.approx(1.0 if isinstance(schedule, LogLinearNoise) else math.pi / 2, rel=1e-12)


@pytest.mark.parametrize("t", [-0.1, 1.0001, float("nan"), float("inf")])
def test_schedule_refuses_times_outside_unit_interval(t: float) -> None:
    for method in (LogLinearNoise().sigma, CosineNoise().rate, GeometricNoise().alpha):
        with pytest.raises(TimeError, match=r"t: got .*; expected a time in \[0, 1\]"):
            method(t)


@pytest.mark.parametrize("sigma", [float("nan"), float("inf"), -1.0, 30.0, 1e-6])
def test_schedule_inverse_refuses_sigma_outside_range(sigma: float) -> None:
    with pytest.raises(SigmaError, match="sigma: got"):
        GeometricNoise(1e-4, 20.0).inverse(sigma)


def test_schedule_refuses_invalid_settings() -> None:
    for build in (
        lambda: LogLinearNoise(-0.1),
        lambda: CosineNoise(float("nan")),
        lambda: GeometricNoise(0.0, 1.0),
        lambda: GeometricNoise(2.0, 1.0),
        lambda: LinearNoise(0.0, 1e3),
    ):
        with pytest.raises(SettingError, match="expected"):
            build()
