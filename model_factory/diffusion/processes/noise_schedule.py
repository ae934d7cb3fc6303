"""Noise schedules: total noise sigma(t) at time t in [0, 1], its derivative and inverse.

Lou et al. 2024 (SEDD) for the geometric and the log-linear schedule, Nichol and Dhariwal 2021 for the cosine. All
times and noise levels are float64, of any shape. alpha(t) = exp(-sigma(t)) is the probability that a token is untouched.

A schedule that ends at alpha = 0 has an infinite sigma(1), which networks and samplers cannot use. Alpha is clamped to
1e-30 wherever it is a divisor: far below the rounding of 1 - alpha, so that eps = 0 is exact in float64.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, SigmaError, check_number, check_sigma, check_time, raise_if

TINY_ALPHA = 1e-30
MAX_SIGMA = -math.log(TINY_ALPHA)


class NoiseSchedule(ABC):
    """sigma(t), its rate, alpha(t) and the inverse; each takes a number or a tensor and returns float64.

    `num_steps` is the number of steps of a discrete-time schedule, None in continuous time.
    """

    num_steps: int | None = None

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the total noise at time t, of the shape of t; raise TimeError unless t is in [0, 1]."""

    @abstractmethod
    def rate(self, t: Tensor | float) -> Tensor:
        """Return d sigma / dt, of the shape of t; raise TimeError unless t is in [0, 1]."""

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """Return alpha(t), the probability that a token is untouched, of the shape of t; raise TimeError outside [0, 1]."""

    @abstractmethod
    def _invert(self, sigma: Tensor) -> Tensor:
        """Return the time of a noise level between sigma(0) and sigma(1)."""

    def inverse(self, sigma: Tensor | float) -> Tensor:
        """Return t in [0, 1] with sigma(t) = sigma, of its shape; raise SigmaError outside sigma(0) .. sigma(1)."""
        values = check_sigma("sigma", sigma)
        low, high = (float(self.sigma(end)) for end in (0.0, 1.0))
        slack = 1e-12 * max(high, 1.0)  # for a level computed from the schedule
        wrong = (values < low - slack) | (values > high + slack)
        expected = f"a noise level from {low:g} to {high:g}"
        raise_if(wrong, SigmaError, "sigma", lambda: float(values[wrong].flatten()[0]), expected)
        return self._invert(values.clamp(low, high)).clamp(0.0, 1.0)


class AlphaSchedule(NoiseSchedule):
    """Schedule given by alpha(t) and 1 - alpha(t), the lost part."""

    @abstractmethod
    def _alpha(self, t: Tensor) -> Tensor:
        """Return alpha(t), accurate where it is small."""

    @abstractmethod
    def _lost(self, t: Tensor) -> Tensor:
        """Return 1 - alpha(t), accurate where it is small."""

    @abstractmethod
    def _slope(self, t: Tensor) -> Tensor:
        """Return -d alpha / dt."""

    def alpha(self, t: Tensor | float) -> Tensor:
        """Return alpha(t), the probability that a token is untouched, of the shape of t; raise TimeError outside [0, 1]."""
        return self._alpha(check_time("t", t, allow_zero=True))

    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the total noise, -log alpha(t), at most MAX_SIGMA; raise TimeError unless t is in [0, 1]."""
        t = check_time("t", t, allow_zero=True)
        early = -torch.log1p(-self._lost(t).clamp_max(0.5))
        late = -torch.log(self._alpha(t).clamp_min(TINY_ALPHA))
        return torch.where(self._lost(t) < 0.5, early, late)

    def rate(self, t: Tensor | float) -> Tensor:
        """Return d sigma / dt = -alpha' / alpha; raise TimeError unless t is in [0, 1]."""
        t = check_time("t", t, allow_zero=True)
        return self._slope(t) / self._alpha(t).clamp_min(TINY_ALPHA)


class LogLinearNoise(AlphaSchedule):
    """Schedule alpha(t) = 1 - (1 - eps) t: tokens are noised at a constant rate (Lou et al. 2024)."""

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = check_number("eps", eps, 0.0, 0.5)

    def _alpha(self, t: Tensor) -> Tensor:
        return (1 - t) + self.eps * t

    def _lost(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * t

    def _slope(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.eps)

    def _invert(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(-sigma) / (1 - self.eps)


class CosineNoise(AlphaSchedule):
    """Schedule alpha(t) = eps + (1 - eps) cos(pi t / 2)."""

    def __init__(self, eps: float = 1e-3) -> None:
        self.eps = check_number("eps", eps, 0.0, 0.5)

    def _alpha(self, t: Tensor) -> Tensor:
        return self.eps + (1 - self.eps) * torch.sin(math.pi / 2 * (1 - t))  # the cosine, accurate where it vanishes

    def _lost(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * 2 * torch.sin(math.pi / 4 * t) ** 2

    def _slope(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * math.pi / 2 * torch.sin(math.pi / 2 * t)

    def _invert(self, sigma: Tensor) -> Tensor:
        half = -torch.expm1(-sigma) / (2 * (1 - self.eps))
        return 4 / math.pi * torch.asin(half.clamp(0.0, 1.0).sqrt())


class SigmaSchedule(NoiseSchedule):
    """Schedule given by sigma(t), starting at sigma_min, which may be 0."""

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.sigma_min = check_number("sigma_min", sigma_min, 0.0, MAX_SIGMA)
        self.sigma_max = check_number("sigma_max", sigma_max, 0.0, MAX_SIGMA, low_open=True)
        if not sigma_min < sigma_max:
            raise SettingError("sigma_min", sigma_min, f"less than sigma_max = {sigma_max:g}")

    def alpha(self, t: Tensor | float) -> Tensor:
        """Return alpha(t), the probability that a token is untouched, of the shape of t; raise TimeError outside [0, 1]."""
        return torch.exp(-self.sigma(t))


class GeometricNoise(SigmaSchedule):
    """Schedule sigma(t) = sigma_min^(1 - t) sigma_max^t (Lou et al. 2024)."""

    def __init__(self, sigma_min: float = 1e-4, sigma_max: float = 20.0) -> None:
        check_number("sigma_min", sigma_min, 0.0, MAX_SIGMA, low_open=True)
        super().__init__(sigma_min, sigma_max)
        self._log_ratio = math.log(sigma_max / sigma_min)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the total noise at time t; raise TimeError unless t is in [0, 1]."""
        t = check_time("t", t, allow_zero=True)
        return torch.exp(math.log(self.sigma_min) * (1 - t) + math.log(self.sigma_max) * t)

    def rate(self, t: Tensor | float) -> Tensor:
        """Return d sigma / dt; raise TimeError unless t is in [0, 1]."""
        return self.sigma(t) * self._log_ratio

    def _invert(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma / self.sigma_min) / self._log_ratio


class LinearNoise(SigmaSchedule):
    """Schedule sigma(t) = sigma_min + t (sigma_max - sigma_min)."""

    def __init__(self, sigma_min: float = 0.0, sigma_max: float = 10.0) -> None:
        super().__init__(sigma_min, sigma_max)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the total noise at time t; raise TimeError unless t is in [0, 1]."""
        return self.sigma_min + check_time("t", t, allow_zero=True) * (self.sigma_max - self.sigma_min)

    def rate(self, t: Tensor | float) -> Tensor:
        """Return d sigma / dt; raise TimeError unless t is in [0, 1]."""
        return torch.full_like(check_time("t", t, allow_zero=True), self.sigma_max - self.sigma_min)

    def _invert(self, sigma: Tensor) -> Tensor:
        return (sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)
