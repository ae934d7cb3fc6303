"""The hybrid process of GIDD (von Ruette et al. 2025): masks and wrong tokens, in a mixture that changes on the way.

In odds r = s / (1 - s) of the share s that a pace has taken, noise at a token stands in the ratios

    kept : masked : replaced = 1 : r : u(r),   u(r) = B r^(gamma / 2) (1 + r)^(1 - gamma),

with B = 2^gamma p / (1 - p): half-way (s = 1/2) a share p of all tokens is replaced. For s = t this is the paper's
q_t with c_t = B t^(gamma/2) (1 - t)^(gamma/2). The pace may be any schedule: s(t) = 1 - exp(-sigma(t)) of it, so that
all schedules are the same process, gone through in another time.
"""

import math

import torch
from torch import Tensor

from diffusion.errors import check_count, check_number
from diffusion.objectives.losses import ScoreEntropyLoss
from diffusion.objectives.parameterisation import X0Parameterisation
from diffusion.processes.diffusion_process import DiffusionProcess
from diffusion.processes.forward_process import Graph, per_token
from diffusion.processes.noise_schedule import NoiseSchedule
from diffusion.randomness import Randomness, uniform

_LEAST = 1e-300
_NEWTON_STEPS = 60  # many more than are needed; the numbers are one a row


class HybridMixture:
    """The ratios 1 : r : u(r), and r from the total noise sigma, which is log(1 + r + u(r))."""

    def __init__(self, p_uniform: float, gamma: float) -> None:
        check_number("p_uniform", p_uniform, 0.0, 0.99, low_open=True)
        self.gamma = check_number("gamma", gamma, 0.0, 2.0, low_open=True)
        self.scale = 2.0**gamma * p_uniform / (1 - p_uniform)

    def replaced(self, r: Tensor) -> Tensor:
        """u(r), the odds of a wrong token, of any shape."""
        odds: Tensor = self.scale * r ** (self.gamma / 2) * (1 + r) ** (1 - self.gamma)
        return odds

    def slope(self, r: Tensor) -> Tensor:
        """du / dr of the shape of r, not negative for gamma up to 2; infinite at r = 0 for gamma below 2."""
        rising: Tensor = self.scale * r ** (self.gamma / 2 - 1) * (1 + r) ** (1 - self.gamma)
        return rising * (self.gamma / 2 + (1 - self.gamma) * (r / (1 + r)))

    def masked(self, sigma: Tensor) -> Tensor:
        """r, odds of a mask, of the shape of sigma: Newton's method for log(r + u) = log(e^sigma - 1) over log r."""
        level = (sigma + torch.log(-torch.expm1(-sigma).clamp_max(-_LEAST))).clamp_min(-690.0)
        half, rest = self.gamma / 2, 1 - self.gamma
        log_r = level.clone()  # r + u is above exp(sigma) - 1 there, and Newton's steps come down from above
        for _ in range(_NEWTON_STEPS):
            log_u = math.log(self.scale) + half * log_r + rest * torch.nn.functional.softplus(log_r)
            share = torch.sigmoid(log_r - log_u)
            rise = share + (1 - share) * (half + rest * torch.sigmoid(log_r))
            step = (torch.logaddexp(log_r, log_u) - level) / rise
            log_r = log_r - step
            if not bool((step.abs() > 1e-15 * log_r.abs()).any()):
                break
        return log_r.exp()


class HybridGraph(Graph):
    """Data tokens become masks (the last of N + 1 states) or any data token; `mask_odds` is r at the end of time."""

    def __init__(self, num_tokens: int, p_uniform: float = 0.1, gamma: float = 1.0, mask_odds: float = 1e30) -> None:
        check_count("num_tokens", num_tokens)
        self.mixture = HybridMixture(p_uniform, gamma)
        self.settings = (num_tokens, p_uniform, gamma)
        # The prior: what is kept at the end is taken for replaced, so that the divergence from it is finite and small.
        odds = torch.tensor(mask_odds, dtype=torch.float64)
        super().__init__(num_tokens, _spread(odds, self.mixture.replaced(odds) + 1, num_tokens))

    def at_pace(self, pace: NoiseSchedule) -> tuple["HybridGraph", "HybridNoise"]:
        """This process with its noise levels at a pace, ending where the pace ends."""
        return HybridGraph(*self.settings, float(torch.expm1(pace.sigma(1.0)))), HybridNoise(pace, self.mixture)

    def noise(self, sigma: Tensor) -> Tensor:
        """Probability of having become each state by noise, [..., dim], summing to 1 - exp(-sigma)."""
        sigma = sigma.to(torch.float64)
        masked = self.mixture.masked(sigma)
        alpha = torch.exp(-sigma)
        return _spread(alpha * masked, alpha * self.mixture.replaced(masked), self.num_tokens)

    def noise_rate(self, sigma: Tensor | None = None) -> Tensor:
        """Weights of the rate matrix at `sigma`, [..., dim]: masks and wrong tokens as r and u(r) grow."""
        if sigma is None:
            return super().noise_rate()
        slope = self.mixture.slope(self.mixture.masked(sigma.to(torch.float64)).clamp_min(_LEAST))
        return _spread(1 / (1 + slope), 1 / (1 + 1 / slope), self.num_tokens)

    def noise_between(self, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Noise mixed in while the level rose by `dsigma` up to `sigma`, [..., dim], summing to 1 - exp(-dsigma)."""
        if sigma is None:
            return self.noise(dsigma)
        # What was there at the start has shrunk by exp(-dsigma) since.
        before = torch.exp(-dsigma)[..., None] * self.noise((sigma - dsigma).clamp_min(0))
        return (self.noise(sigma) - before).clamp_min(0)

    def sample_noise(self, tokens: Tensor, sigma: Tensor, generator: Randomness = None) -> Tensor:
        """What replaced tokens become at `sigma`: a mask, or a token drawn uniformly."""
        masked = self.mixture.masked(per_token(sigma, tokens).to(torch.float64))
        odds = self.mixture.replaced(masked)
        share = torch.where(odds > 0, odds / (masked + odds).clamp_min(_LEAST), 0.0)
        draws = uniform((*tokens.shape, 2), generator, tokens.device)
        other = (draws[..., 0] * self.num_tokens).long().clamp_max(self.num_tokens - 1)
        return torch.where(draws[..., 1] < share, other, self.num_tokens)


def _spread(masked: Tensor, replaced: Tensor, num_tokens: int) -> Tensor:
    """Weights [..., dim] of data tokens, sharing what is replaced, and the mask."""
    data = (replaced / num_tokens)[..., None].expand(*replaced.shape, num_tokens)
    return torch.cat([data, masked[..., None]], -1)


class HybridNoise(NoiseSchedule):
    """sigma(t) = log(1 + r + u(r)), where r + 1 = exp(sigma(t)) of the pace."""

    def __init__(self, pace: NoiseSchedule, mixture: HybridMixture) -> None:
        self.pace, self.mixture, self.num_steps = pace, mixture, pace.num_steps

    def sigma(self, t: Tensor | float) -> Tensor:
        """Total noise at time t; raises TimeError unless t is in [0, 1]."""
        r = torch.expm1(self.pace.sigma(t))
        return torch.log1p(r + self.mixture.replaced(r))

    def rate(self, t: Tensor | float) -> Tensor:
        """d sigma / dt; raises TimeError unless t is in [0, 1].

        At t = 0 and for gamma below 2 it is infinite, or not a number where the pace starts from rest.
        """
        r = torch.expm1(self.pace.sigma(t))
        faster = (1 + self.mixture.slope(r)) * (1 + r) / (1 + r + self.mixture.replaced(r))
        return faster * self.pace.rate(t)

    def alpha(self, t: Tensor | float) -> Tensor:
        """Chance that a token is untouched at time t; raises TimeError unless t is in [0, 1]."""
        return torch.exp(-self.sigma(t))

    def _invert(self, sigma: Tensor) -> Tensor:
        level = torch.log1p(self.mixture.masked(sigma))
        low, high = self.pace.sigma(0.0), self.pace.sigma(1.0)
        return self.pace.inverse(torch.minimum(torch.maximum(level, low), high))


class GiddLoss(ScoreEntropyLoss):
    """GIDD's bound (von Ruette et al. 2025), for a network that gives the law of the clean token under any noise.

    With q = q_t(. | x), q' = q_t(. | the network's x) and rho = q(z) / q'(z) at z = x_t it is

        w [ KL(q || q') + rho - log rho - 1 ],   w = (rate at which noise becomes z) / q(z).

    The score entropy at s_y = q'(y) / q'(z), a_y = q(y) / q(z) is the same number, term by term, and loses fewer
    digits. Under masks it is MDLM's bound, under uniform noise UDLM's.
    """

    def __init__(self, process: DiffusionProcess) -> None:
        super().__init__(process, X0Parameterisation(process.graph))
