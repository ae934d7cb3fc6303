"""Samplers without settings: analytic, Euler, ancestral, first-hitting and confidence.

Analytic, Euler and ancestral step on a grid of times, for any process: all tokens move in one step, independently given
the whole x_t. That independence is their only error where the network is right, and it falls as 1 / steps.

The others are of the absorbing process. Whether a mask is lifted does not depend on the network (its times are those of
the forward process), so they choose places first, ask the network only about those, and not at all for rows without any.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusion.categorical import invert_distribution
from diffusion.processes.graph import AbsorbingGraph
from diffusion.samplers.base import Proposal, Sampler
from diffusion.samplers.unmasking import free_masks, unmask
from diffusion.samplers.state import SamplerState


class AnalyticSampler(Sampler):
    """Tweedie's formula (Lou et al. 2024): p(y) is proportional to [exp(-dsigma Q) s]_y q_dsigma(x | y).

    With the true score this is the exact law of each single token. The last step removes all noise, and the mask.
    Weights that a wrong score makes negative count as zero.
    """

    def propose(self, state: SamplerState) -> Proposal:
        """The analytic step, from the score."""
        sigma, sigma_next = self.levels(state)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        return self.tweedie(score, state.tokens, sigma, sigma_next)

    def tweedie(self, score: Tensor, tokens: Tensor, sigma: Tensor, sigma_next: Tensor) -> Proposal:
        """Tweedie's proposal from sigma to sigma_next, both [B], for tokens [B, L] with the score [B, L, dim]."""
        graph, dsigma = self.process.graph, sigma - sigma_next
        weights = graph.staggered_score(score, dsigma, sigma).clamp_min(0)
        weights = weights * graph.transition_into(tokens, dsigma, sigma)
        if graph.mask_token is not None and not bool(sigma_next.any()):
            weights[..., graph.mask_token] = 0.0
        return Proposal.from_weights(weights, tokens)


class EulerSampler(AnalyticSampler):
    """Euler's step of the reverse process: 1 + dt R, with the analytic step as the last (Lou et al. 2024)."""

    def propose(self, state: SamplerState) -> Proposal:
        """The Euler step: rates times the step's length, cut at a total of one."""
        if state.step + 1 >= self.steps:
            return super().propose(state)
        sigma = self.process.schedule.sigma(state.t)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        leave = self.process.graph.reverse_rate(state.tokens, score, sigma).clamp_min(0)
        leave = leave * (self.process.schedule.rate(state.t) / self.steps)[:, None, None]
        return Proposal(leave.sum(-1).clamp_max(1.0), leave)


class AncestralSampler(Sampler):
    """The posterior q(x_s | x_t, x_0) at the network's law of x_0 (Austin et al. 2021, Sahoo et al. 2024).

    It is the analytic step written for x_0 instead of the score, and precise where alpha is tiny too.
    """

    def propose(self, state: SamplerState) -> Proposal:
        """The posterior step, from the law of the clean token."""
        sigma, sigma_next = self.levels(state)
        x_0 = self.denoiser.log_x0(state.tokens, sigma).exp()
        return Proposal(*self.process.graph.reverse_posterior(x_0, state.tokens, sigma, sigma_next))


class CachedAncestralSampler(AncestralSampler):
    """The ancestral sampler of MDLM, calling the network only for rows that change in a step.

    The same samples as `ancestral` from the same seed. Sahoo et al. keep the network's last answer until x_t changes,
    which is right only for a network that is not told the time; drawing first which masks are lifted needs as few
    calls, no memory, and is right for every network.
    """

    absorbing_only: ClassVar[bool] = True

    def step(self, state: SamplerState) -> SamplerState:
        """Draw which masks are lifted, then what they become."""
        sigma, sigma_next = self.levels(state)
        uniforms = state.generators.rand(2, state.tokens.shape[1])
        graph = self.process.graph
        assert isinstance(graph, AbsorbingGraph)
        lifted = uniforms[:, 0] < graph.unmask_probability(state.tokens, sigma, sigma_next)
        tokens, evaluated = unmask(self, state, sigma, lifted & ~state.frozen, uniforms[:, 1])
        return self.advance(state, tokens, evaluated)


class FirstHittingSampler(Sampler):
    """Zheng et al. 2024: draw when each mask is lifted, then lift them one by one, each at its time.

    Exact for any schedule, in as many network calls for a row as it has masks.
    """

    absorbing_only: ClassVar[bool] = True

    def begin(self, state: SamplerState) -> SamplerState:
        """Draw the noise level at which each mask is lifted: 1 - alpha is uniform below its value at t = 1."""
        top = self.process.schedule.sigma(torch.ones_like(state.t))[:, None]
        below = (1 - state.generators.rand(state.tokens.shape[1])) * -torch.expm1(-top)
        return replace(state, cache={"hit_sigma": torch.minimum(-torch.log1p(-below), top)})

    def is_finished(self, state: SamplerState) -> bool:
        """Whether no mask is left."""
        return not bool(free_masks(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """The next mask of each row is lifted for certain."""
        sigma, chosen = self._next_unmask(state)
        return Proposal(chosen.to(torch.float64), self.denoiser.log_x0(state.tokens, sigma).exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Lift the next mask of each row that has one."""
        sigma, chosen = self._next_unmask(state)
        uniforms = state.generators.rand(state.tokens.shape[1])
        tokens, evaluated = unmask(self, state, sigma, chosen, uniforms)
        t = torch.where(evaluated, self.process.schedule.inverse(sigma), 0.0)
        return replace(self.advance(state, tokens, evaluated), t=t)

    def _next_unmask(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Noise level [B] of the next lift, and its place as bool [B, L]; finished rows have none."""
        masked = free_masks(self, state)
        levels = state.cache["hit_sigma"].masked_fill(~masked, -1.0)
        sigma, place = levels.max(1)
        chosen = torch.zeros_like(masked).scatter(1, place[:, None], True) & masked
        floor = self.process.schedule.sigma(torch.zeros_like(sigma))
        return torch.maximum(sigma, floor), chosen


class ConfidenceSampler(Sampler):
    """Lift the masks that the network is surest of (after Chang et al. 2022), as many as the schedule lifts.

    Places are ranked by their likeliest token before anything is drawn. The order then depends only on what is seen, so
    that with the true law one mask a call is exact, and the error comes from lifting several at once; ranking drawn
    tokens, as Chang et al. do, is wrong even then. A network that errs is not forgiven as it is by a random order: what
    it is surest of comes first, and the entropy of samples falls.
    """

    absorbing_only: ClassVar[bool] = True

    def begin(self, state: SamplerState) -> SamplerState:
        """Count the masks that are to be lifted."""
        masked = free_masks(self, state)
        return replace(state, cache={"masks": masked.sum(1)})

    def propose(self, state: SamplerState) -> Proposal:
        """The surest places are lifted for certain."""
        sigma, count = self._count_unmasked(state)
        law = self.denoiser.log_x0(state.tokens, sigma)
        masked = free_masks(self, state)
        return Proposal(_select_most_confident(law.amax(-1), masked, count).to(torch.float64), law.exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Lift the surest places of the rows that have any to lift at this step."""
        sigma, count = self._count_unmasked(state)
        uniforms = state.generators.rand(state.tokens.shape[1])
        rows = (count > 0).nonzero()[:, 0]
        if rows.numel() == 0:
            return self.advance(state, state.tokens, count > 0)
        masked = free_masks(self, state)[rows]
        law = self.denoiser.log_x0(state.tokens[rows], sigma[rows], rows, masked)
        surety = torch.zeros(masked.shape, dtype=law.dtype, device=law.device).masked_scatter(masked, law.amax(-1))
        lifted = _select_most_confident(surety, masked, count[rows])
        tokens, chosen = state.tokens.clone(), torch.zeros_like(state.frozen)
        chosen[rows] = lifted
        tokens[chosen] = invert_distribution(law[lifted[masked]].exp(), uniforms[chosen])
        return self.advance(state, tokens, count > 0)

    def _count_unmasked(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Noise level [B] and how many masks [B] this step lifts: the share that the process has left, rounded down."""
        sigma, sigma_next = self.levels(state)
        top = self.process.schedule.sigma(torch.ones_like(state.t))
        share = torch.expm1(-sigma_next) / torch.expm1(-top)
        masked = free_masks(self, state).sum(1)
        left = torch.floor(state.cache["masks"] * share + 1e-9).long()
        return sigma, (masked - left).clamp_min(0)


def _select_most_confident(surety: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] masked places of greatest surety [B, L], as bool [B, L]; ties go to the earlier place."""
    order = surety.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < count[:, None]) & masked
