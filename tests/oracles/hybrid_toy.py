"""The toy language with hybrid noise, from the paper's q_t(z | x) = alpha_t x + (beta pi)_t and a bisection in t."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tests.oracles.diffusion_toy import VOCABULARY, Toy


@cache
def _time(sigma: float, p_uniform: float, gamma: float) -> float:
    toy, alpha, low, high = HybridToy(torch.empty(0), True, p_uniform, gamma), math.exp(-sigma), 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        later = float(toy.shares(torch.tensor(middle, dtype=torch.float64))[0]) > alpha
        low, high = (middle, high) if later else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class HybridToy(Toy):
    """Toy whose noise is a mask or a uniform token (von Ruette et al. 2025, equations of section 3)."""

    p_uniform: float = 0.2
    gamma: float = 1.0

    @classmethod
    def drawn(cls, seed: int, p_uniform: float = 0.2, gamma: float = 1.0) -> "HybridToy":
        """Draw a toy of the same distributions as `Toy.random`."""
        return cls(Toy.random(seed, absorbing=True).joint, True, p_uniform, gamma)

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha_t, and (beta pi)_t at the mask and summed over data tokens."""
        strength = 2**self.gamma * self.p_uniform / (1 - self.p_uniform)
        c = strength * t ** (self.gamma / 2) * (1 - t) ** (self.gamma / 2)
        return (1 - t) / (1 + c), t / (1 + c), c / (1 + c)

    def time(self, sigma: Tensor) -> Tensor:
        """Return t with alpha_t = exp(-sigma), by bisection."""
        levels, places = sigma.unique(return_inverse=True)
        times = [_time(level, self.p_uniform, self.gamma) for level in levels.tolist()]
        return torch.tensor(times, dtype=torch.float64)[places]

    def kernel(self, sigma: Tensor) -> Tensor:
        """Return q at noise level sigma, [..., dim, dim], rows of clean tokens; a mask is kept."""
        alpha, mask, other = self.shares(self.time(sigma.to(torch.float64)))
        data = (other / VOCABULARY)[..., None].expand(*other.shape, VOCABULARY)
        noise = torch.cat([data, mask[..., None]], -1)
        return alpha[..., None, None] * torch.eye(self.dim, dtype=torch.float64) + noise[..., None, :]
