"""Samplers on a grid of times, for any process: all tokens move in one step, independently given the whole x_t.

That independence is their only error where the network is right, and it falls as 1 / steps.
"""

from typing import ClassVar

from torch import Tensor

from diffusion.forward_process import leave_or_stay
from diffusion.sampler_state import SamplerState
from diffusion.samplers.base import Accuracy, Proposal, Sampler
from diffusion.samplers.registry import register_sampler


@register_sampler
class AnalyticSampler(Sampler):
    """Tweedie's formula (Lou et al. 2024): p(y) is proportional to [exp(-dsigma Q) s]_y q_dsigma(x | y).

    With the true score this is the exact law of each single token. The last step removes all noise, and the mask.
    Weights that a wrong score makes negative count as zero.
    """

    name: ClassVar[str] = "analytic"
    accuracy: ClassVar[Accuracy] = "convergent"
    summary: ClassVar[str] = "Tweedie's formula: the exact law of each token alone"

    def propose(self, state: SamplerState) -> Proposal:
        """The analytic step, from the score."""
        sigma, sigma_next = self.levels(state)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        return self.tweedie(score, state.tokens, sigma, sigma_next)

    def tweedie(self, score: Tensor, tokens: Tensor, sigma: Tensor, sigma_next: Tensor) -> Proposal:
        """Tweedie's proposal from sigma to sigma_next, both [B]."""
        graph, dsigma = self.process.graph, sigma - sigma_next
        weights = graph.staggered_score(score, dsigma, sigma).clamp_min(0)
        weights = weights * graph.transition_into(tokens, dsigma, sigma)
        if graph.mask_token is not None and not bool(sigma_next.any()):
            weights[..., graph.mask_token] = 0.0
        return Proposal(*leave_or_stay(weights, tokens))


@register_sampler
class EulerSampler(AnalyticSampler):
    """Euler's step of the reverse process: 1 + dt R, with the analytic step as the last (Lou et al. 2024)."""

    name: ClassVar[str] = "euler"
    summary: ClassVar[str] = "Euler steps of the reverse rates"

    def propose(self, state: SamplerState) -> Proposal:
        """The Euler step: rates times the step's length, cut at a total of one."""
        if state.step + 1 >= self.steps:
            return super().propose(state)
        sigma = self.process.schedule.sigma(state.t)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        leave = self.process.graph.reverse_rate(state.tokens, score, sigma).clamp_min(0)
        leave = leave * (self.process.schedule.rate(state.t) / self.steps)[:, None, None]
        return Proposal(leave.sum(-1).clamp_max(1.0), leave)


@register_sampler
class AncestralSampler(Sampler):
    """The posterior q(x_s | x_t, x_0) at the network's law of x_0 (Austin et al. 2021, Sahoo et al. 2024).

    It is the analytic step written for x_0 instead of the score, and precise where alpha is tiny too.
    """

    name: ClassVar[str] = "ancestral"
    accuracy: ClassVar[Accuracy] = "convergent"
    summary: ClassVar[str] = "the posterior of each token alone, from the law of the clean token"

    def propose(self, state: SamplerState) -> Proposal:
        """The posterior step, from the law of the clean token."""
        sigma, sigma_next = self.levels(state)
        x_0 = self.denoiser.log_x0(state.tokens, sigma).exp()
        return Proposal(*self.process.graph.reverse_posterior(x_0, state.tokens, sigma, sigma_next))
