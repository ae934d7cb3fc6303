"""The hybrid process of GIDD (von Ruette et al. 2025): masks and uniform tokens, in a mixture that changes with time.

With odds r = s / (1 - s) of the fraction s that a base schedule, the pace, has noised, a token's states have ratios

    kept : masked : replaced = 1 : r : u(r),   u(r) = B r^(gamma / 2) (1 + r)^(1 - gamma),

with B = 2^gamma p / (1 - p): at s = 1/2 a fraction p of all tokens is replaced. For s = t this is the paper's q_t with
c_t = B t^(gamma/2) (1 - t)^(gamma/2). The pace may be any schedule, with s(t) = 1 - exp(-sigma(t)): all schedules give
the same process under a change of time.
"""

import math

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_count, check_number, check_sigma, check_tokens
from model_factory.diffusion.objectives.losses import ScoreEntropyLoss
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import EvenNoise, Graph, per_token
from model_factory.diffusion.processes.noise_schedule import NoiseSchedule
from model_factory.diffusion.randomness import Randomness, uniform

_LEAST = 1e-300
_NEWTON_STEPS = 60  # many more than are needed; there is one number for each row
_STEPS_ON_DEVICE = 24
"""Steps on a device that is not waited for; after 17 no level of any setting moves by 1e-13."""


class HybridMixture:
    """Ratios 1 : r : u(r), and r from the total noise sigma = log(1 + r + u(r))."""

    def __init__(self, p_uniform: float, gamma: float) -> None:
        check_number("p_uniform", p_uniform, 0.0, 0.99, low_open=True)
        self.gamma = check_number("gamma", gamma, 0.0, 2.0, low_open=True)
        self.scale = 2.0**gamma * p_uniform / (1 - p_uniform)

    def replaced(self, r: Tensor) -> Tensor:
        """Return u(r), the odds of a replaced token, of any shape."""
        odds: Tensor = self.scale * r ** (self.gamma / 2) * (1 + r) ** (1 - self.gamma)
        return odds

    def slope(self, r: Tensor) -> Tensor:
        """Return du / dr of the shape of r, not negative for gamma up to 2; infinite at r = 0 for gamma below 2."""
        rising: Tensor = self.scale * r ** (self.gamma / 2 - 1) * (1 + r) ** (1 - self.gamma)
        return rising * (self.gamma / 2 + (1 - self.gamma) * (r / (1 + r)))

    def masked(self, sigma: Tensor) -> Tensor:
        """Return r, odds of a mask, of the shape of sigma, by Newton's method for log(r + u) = log(e^sigma - 1) in log r."""
        level = (sigma + torch.log(-torch.expm1(-sigma).clamp_max(-_LEAST))).clamp_min(-690.0)
        half, rest = self.gamma / 2, 1 - self.gamma
        log_r = level.clone()  # r + u is above exp(sigma) - 1 there, so Newton's steps converge from above
        is_seen = sigma.device.type == "cpu"
        for _ in range(_NEWTON_STEPS if is_seen else _STEPS_ON_DEVICE):
            log_u = math.log(self.scale) + half * log_r + rest * torch.nn.functional.softplus(log_r)
            share = torch.sigmoid(log_r - log_u)
            rise = share + (1 - share) * (half + rest * torch.sigmoid(log_r))
            step = (torch.logaddexp(log_r, log_u) - level) / rise
            log_r = log_r - step
            if is_seen and not bool((step.abs() > 1e-15 * log_r.abs()).any()):
                break
        return log_r.exp()


class HybridGraph(Graph):
    """Process that replaces tokens by a mask (the last of N + 1 states) or a data token; `mask_odds` is r at t = 1."""

    def __init__(self, num_tokens: int, p_uniform: float = 0.1, gamma: float = 1.0, mask_odds: float = 1e30) -> None:
        check_count("num_tokens", num_tokens)
        self.mixture = HybridMixture(p_uniform, gamma)
        self.settings = (num_tokens, p_uniform, gamma)
        # The prior counts tokens kept at t = 1 as replaced, so that the divergence from it is finite and small.
        odds = torch.tensor(mask_odds, dtype=torch.float64)
        super().__init__(num_tokens, _spread(odds, self.mixture.replaced(odds) + 1, num_tokens))

    def at_pace(self, pace: NoiseSchedule) -> tuple["HybridGraph", "HybridNoise"]:
        """Return this process with its noise schedule for a base schedule `pace`, ending at the same odds of a mask."""
        return HybridGraph(*self.settings, float(torch.expm1(pace.sigma(1.0)))), HybridNoise(pace, self.mixture)

    def noise(self, sigma: Tensor) -> Tensor:
        """Return the probabilities of each state by noise, [..., dim], summing to 1 - exp(-sigma)."""
        sigma = sigma.to(torch.float64)
        masked = self.mixture.masked(sigma)
        alpha = torch.exp(-sigma)
        return _spread(alpha * masked, alpha * self.mixture.replaced(masked), self.num_tokens)

    def noise_rate(self, sigma: Tensor | None = None) -> Tensor:
        """Return the weights of the rate matrix at `sigma`, [..., dim], in proportion to the growth of r and u(r)."""
        if sigma is None:
            return super().noise_rate()
        slope = self.mixture.slope(self.mixture.masked(sigma.to(torch.float64)).clamp_min(_LEAST))
        return _spread(1 / (1 + slope), 1 / (1 + 1 / slope), self.num_tokens)

    def even_noise(self, sigma: Tensor) -> EvenNoise:
        """Return the noise and its rate at one data token and at the mask, of the shape of sigma."""
        sigma = sigma.to(torch.float64)
        masked, alpha = self.mixture.masked(sigma), torch.exp(-sigma)
        slope = self.mixture.slope(masked.clamp_min(_LEAST))
        at_data, rate_at_data = alpha * self.mixture.replaced(masked), 1 / (1 + 1 / slope)
        return EvenNoise(at_data / self.num_tokens, alpha * masked, rate_at_data / self.num_tokens, 1 / (1 + slope))

    def noise_between(self, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the noise added from sigma - dsigma to sigma, [..., dim], summing to 1 - exp(-dsigma)."""
        if sigma is None:
            return self.noise(dsigma)
        # Noise present at sigma - dsigma has decayed by exp(-dsigma).
        before = torch.exp(-dsigma)[..., None] * self.noise((sigma - dsigma).clamp_min(0))
        return (self.noise(sigma) - before).clamp_min(0)

    def prior_part(self, x_0: Tensor, sigma: Tensor, log_x_0: Tensor | None = None) -> Tensor:
        """Return KL(q_sigma(. | x_0) || prior) in nats, the same for every token; raise TokenError and SigmaError."""
        check_tokens("x_0", x_0, self.num_tokens)
        sigma = per_token(check_sigma("sigma", sigma), x_0)
        noise, alpha = self.even_noise(sigma), torch.exp(-sigma)
        limit = self.limit_on(x_0.device)
        own, other = alpha + noise.data, (self.num_tokens - 1) * noise.data
        divergence = torch.xlogy(own, own / limit[0]) + torch.xlogy(other, noise.data / limit[0])
        return (divergence + torch.xlogy(noise.mask, noise.mask / limit[-1])).clamp_min(0).expand(x_0.shape)

    def sample_noise(self, tokens: Tensor, sigma: Tensor, generator: Randomness = None) -> Tensor:
        """Draw a replacement for each token at `sigma`: a mask, or a uniform token."""
        masked = self.mixture.masked(per_token(sigma, tokens).to(torch.float64))
        odds = self.mixture.replaced(masked)
        share = torch.where(odds > 0, odds / (masked + odds).clamp_min(_LEAST), 0.0)
        draws = uniform((*tokens.shape, 2), generator, tokens.device)
        other = (draws[..., 0] * self.num_tokens).long().clamp_max(self.num_tokens - 1)
        return torch.where(draws[..., 1] < share, other, self.num_tokens)


def _spread(masked: Tensor, replaced: Tensor, num_tokens: int) -> Tensor:
    """Return weights [..., dim]: `replaced` divided over the data tokens, then `masked` for the mask."""
    data = (replaced / num_tokens)[..., None].expand(*replaced.shape, num_tokens)
    return torch.cat([data, masked[..., None]], -1)


class HybridNoise(NoiseSchedule):
    """Schedule sigma(t) = log(1 + r + u(r)), where r + 1 = exp(sigma(t)) of the pace."""

    def __init__(self, pace: NoiseSchedule, mixture: HybridMixture) -> None:
        self.pace, self.mixture, self.num_steps = pace, mixture, pace.num_steps

    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the total noise at time t; raise TimeError unless t is in [0, 1]."""
        r = torch.expm1(self.pace.sigma(t))
        return torch.log1p(r + self.mixture.replaced(r))

    def rate(self, t: Tensor | float) -> Tensor:
        """Return d sigma / dt; raise TimeError unless t is in [0, 1].

        At t = 0 and for gamma below 2 it is infinite, or NaN if the rate of the pace is 0 there.
        """
        r = torch.expm1(self.pace.sigma(t))
        faster = (1 + self.mixture.slope(r)) * (1 + r) / (1 + r + self.mixture.replaced(r))
        return faster * self.pace.rate(t)

    def alpha(self, t: Tensor | float) -> Tensor:
        """Return alpha(t), the probability that a token is untouched, of the shape of t; raise TimeError outside [0, 1]."""
        return torch.exp(-self.sigma(t))

    def _invert(self, sigma: Tensor) -> Tensor:
        level = torch.log1p(self.mixture.masked(sigma))
        low, high = self.pace.sigma(0.0), self.pace.sigma(1.0)
        return self.pace.inverse(torch.minimum(torch.maximum(level, low), high))


class GiddLoss(ScoreEntropyLoss):
    """GIDD's bound (von Ruette et al. 2025), for a network that predicts the clean token under any noise.

    With q = q_t(. | x), q' = q_t(. | the network's x) and rho = q(z) / q'(z) at z = x_t it is

        w [ KL(q || q') + rho - log rho - 1 ],   w = (rate at which noise becomes z) / q(z).

    The score entropy at s_y = q'(y) / q'(z), a_y = q(y) / q(z) is equal term by term, and more accurate in
    floating point. Under masks it is MDLM's bound, under uniform noise UDLM's.
    """

    has_count_form = has_row_terms = True

    def __init__(self, process: DiffusionProcess) -> None:
        super().__init__(process, X0Parameterisation(process.graph))
