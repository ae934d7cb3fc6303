"""Gaussian diffusion of data N(m, s^2), with closed-form distributions: slow float64 references from the definitions.

The network is the exact one, E[x_0 | x_t], an affine map; then a sampler is affine in x_T and in its noise, and the
distribution of its samples follows by propagating a mean and a variance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, int, int, Tensor], Tensor]


@dataclass(frozen=True)
class NormalData:
    """Data N(mean, std^2) in one dimension, and the betas of steps 1 .. T."""

    mean: float
    std: float
    betas: tuple[float, ...]

    def alpha_bar(self, t: int) -> float:
        return prod(1 - beta for beta in self.betas[:t])

    def moments(self, t: int) -> tuple[float, float]:
        """Return mean and variance of x_t."""
        kept = self.alpha_bar(t)
        return sqrt(kept) * self.mean, kept * self.std**2 + 1 - kept

    def best_x_0(self, x_t: Tensor, t: int) -> Tensor:
        """Return E[x_0 | x_t], from the regression of x_0 on x_t."""
        mean, variance = self.moments(t)
        return self.mean + sqrt(self.alpha_bar(t)) * self.std**2 / variance * (x_t - mean)

    def posterior_on_a_grid(self, x_t: float, x_0: float, t: int, s: int) -> tuple[float, float]:
        """Return mean and variance of q(x_s | x_t, x_0) by Bayes' rule over a grid of x_s."""
        grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
        kept_s, kept = self.alpha_bar(s), self.alpha_bar(t) / self.alpha_bar(s)
        log_prior = -((grid - sqrt(kept_s) * x_0) ** 2) / (2 * (1 - kept_s))
        log_likelihood = -((x_t - sqrt(kept) * grid) ** 2) / (2 * (1 - kept))
        weights = torch.softmax(log_prior + log_likelihood, 0)
        mean = float((weights * grid).sum())
        return mean, float((weights * (grid - mean) ** 2).sum())

    def sampled_moments(self, step: Step, times: list[int]) -> tuple[float, float]:
        """Return mean and variance after steps `step(x_t, x_0, t, s, noise)` from x_T ~ N(0, 1) with the exact network."""
        mean, variance = 0.0, 1.0
        for t, s in pairwise(times):
            x_t, noise = (torch.tensor(values, dtype=torch.float64) for values in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]))
            shift, from_x, from_noise = step(x_t, self.best_x_0(x_t, t), t, s, noise).tolist()
            slope, spread = from_x - shift, from_noise - shift
            mean, variance = shift + slope * mean, slope**2 * variance + spread**2
        return mean, variance

    def expected_moments(self, times: list[int], eta: float) -> tuple[float, float]:
        """Return the same by a closed recursion of Song et al.'s equation 12; eta = 1 is the ancestral step."""
        mean, variance = 0.0, 1.0
        for t, s in pairwise(times):
            kept_t, kept_s = self.alpha_bar(t), self.alpha_bar(s)
            centre, width = self.moments(t)
            gain = sqrt(kept_t) * self.std**2 / width
            sigma = eta * sqrt((1 - kept_s) / (1 - kept_t)) * sqrt(1 - kept_t / kept_s)
            towards = sqrt(max(0.0, 1 - kept_s - sigma**2)) / sqrt(1 - kept_t)
            on_x_0 = sqrt(kept_s) - towards * sqrt(kept_t)
            slope = towards + on_x_0 * gain
            mean = slope * mean + on_x_0 * (self.mean - gain * centre)
            variance = slope**2 * variance + sigma**2
        return mean, variance
