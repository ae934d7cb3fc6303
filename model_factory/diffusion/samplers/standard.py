"""Samplers without settings: analytic, Euler, ancestral, first-hitting and confidence.

Analytic, Euler and ancestral step on a grid of times, for any process: in a step all tokens change independently given
x_t. With an exact network that independence is their only error, and it falls as 1 / steps.

The others are for absorbing noise. The times of unmasking do not depend on the network, because they are those of the
forward process, so these samplers choose positions first and call the network only for rows that have any.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.diffusion.samplers.unmasking import (
    free_masks,
    keep_masks,
    masks_on_host,
    scatter_back,
    tokens_of,
    unmask,
    unmask_chosen,
)


class AnalyticSampler(Sampler):
    """Tweedie's formula (Lou et al. 2024): p(y) is proportional to [exp(-dsigma Q) s]_y q_dsigma(x | y).

    With the exact score this is the exact distribution of each single token. The last step removes all noise and the
    mask. Weights that an inexact score makes negative are set to zero.
    """

    def propose(self, state: SamplerState) -> Proposal:
        """Propose the analytic step, from the score."""
        sigma, sigma_next = self.levels(state)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        return self.tweedie(score, state.tokens, sigma, sigma_next)

    def tweedie(self, score: Tensor, tokens: Tensor, sigma: Tensor, sigma_next: Tensor) -> Proposal:
        """Return Tweedie's proposal from sigma to sigma_next, both [B], for tokens [B, L] and score [B, L, dim]."""
        graph, dsigma = self.process.graph, sigma - sigma_next
        weights = graph.staggered_score(score, dsigma, sigma).clamp_min(0)
        weights = weights * graph.transition_into(tokens, dsigma, sigma)
        if graph.mask_token is not None:
            at_mask = weights[..., graph.mask_token]  # no mask is left where no noise is
            weights[..., graph.mask_token] = torch.where(sigma_next.any(), at_mask, 0.0)
        return Proposal.from_weights(weights, tokens)


class EulerSampler(AnalyticSampler):
    """Euler's step of the reverse process: 1 + dt R, with the analytic step as the last (Lou et al. 2024)."""

    def propose(self, state: SamplerState) -> Proposal:
        """Propose the Euler step: rates times the step's length, clamped to a total of one."""
        if state.step + 1 >= self.steps:
            return super().propose(state)
        sigma, _ = self.levels(state)
        score = self.denoiser.log_score(state.tokens, sigma).exp()
        leave = self.process.graph.reverse_rate(state.tokens, score, sigma).clamp_min(0)
        rate = upload(self.process.schedule.rate(state.t), leave.device)
        leave = leave * (rate / self.steps)[:, None, None]
        return Proposal(leave.sum(-1).clamp_max(1.0), leave)


class AncestralSampler(Sampler):
    """The posterior q(x_s | x_t, x_0) averaged over the network's p(x_0) (Austin et al. 2021, Sahoo et al. 2024).

    It is the analytic step written for x_0 instead of the score, and accurate for tiny alpha too.
    """

    def propose(self, state: SamplerState) -> Proposal:
        """Propose the posterior step, from the distribution of the clean token."""
        sigma, sigma_next = self.levels(state)
        x_0 = self.denoiser.log_x0(state.tokens, sigma).exp()
        return Proposal(*self.process.graph.reverse_posterior(x_0, state.tokens, sigma, sigma_next))


class CachedAncestralSampler(AncestralSampler):
    """The ancestral sampler of MDLM, which calls the network only for rows that change in a step.

    It draws the same samples as `ancestral` from the same seed. Sahoo et al. cache the network's output until x_t
    changes, which is correct only for a network without time conditioning. Drawing the positions to unmask first needs
    as few calls and no cache, and is correct for every network.
    """

    absorbing_only: ClassVar[bool] = True

    def step(self, state: SamplerState) -> SamplerState:
        """Draw the positions to unmask, then their tokens."""
        sigma, sigma_next = self.host_levels(state)
        uniforms, masks = state.generators.rand(2, state.tokens.shape[1]), masks_on_host(self, state)
        graph = self.process.graph
        assert isinstance(graph, AbsorbingGraph)
        chosen = uniforms[:, 0] < graph.unmask_probability(tokens_of(self, masks), sigma, sigma_next)
        tokens, evaluated = unmask(self, state, sigma, chosen, uniforms[:, 1])
        return keep_masks(self.advance(state, tokens, evaluated), masks & ~chosen)


class FirstHittingSampler(Sampler):
    """First-hitting (Zheng et al. 2024): draw the time at which each token is unmasked, then unmask in that order.

    It is exact for any schedule and calls the network once for each mask of a row.
    """

    absorbing_only: ClassVar[bool] = True

    def begin(self, state: SamplerState) -> SamplerState:
        """Draw the noise level at which each token is unmasked: 1 - alpha is uniform below its value at t = 1."""
        top = self.process.schedule.sigma(torch.ones_like(state.t))[:, None]
        below = (1 - state.generators.rand(state.tokens.shape[1])) * -torch.expm1(-top)
        state = replace(state, cache={"hit_sigma": torch.minimum(-torch.log1p(-below), top)})
        return keep_masks(state, masks_on_host(self, state))

    def is_finished(self, state: SamplerState) -> bool:
        """Return True if no mask remains."""
        return not bool(masks_on_host(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask the next position of each row with probability one."""
        sigma, chosen = (upload(found, state.tokens.device) for found in self._next_unmask(state))
        return Proposal(chosen.to(torch.float64), self.denoiser.log_x0(state.tokens, sigma).exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Unmask the next position of each row that has a mask."""
        sigma, chosen = self._next_unmask(state)
        uniforms, masks = state.generators.rand(state.tokens.shape[1]), masks_on_host(self, state)
        tokens, evaluated = unmask(self, state, sigma, chosen, uniforms)
        t = torch.where(evaluated, self.process.schedule.inverse(sigma), 0.0)
        return keep_masks(replace(self.advance(state, tokens, evaluated), t=t), masks & ~chosen)

    def _next_unmask(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Return the noise level [B] of the next unmasking and its position, bool [B, L], all False in finished rows.

        Both are on the CPU.
        """
        masked = masks_on_host(self, state)
        levels = state.cache["hit_sigma"].masked_fill(~masked, -1.0)
        sigma, position = levels.max(1)
        chosen = torch.zeros_like(masked).scatter(1, position[:, None], True) & masked
        floor = self.process.schedule.sigma(torch.zeros_like(sigma))
        return torch.maximum(sigma, floor), chosen


class ConfidenceSampler(Sampler):
    """Unmask the positions of highest confidence (after Chang et al. 2022), as many as the schedule unmasks.

    Positions are ranked by the probability of their most likely token before anything is drawn. The order then depends
    only on x_t, so that one mask per call is exact with an exact network, and unmasking several at once is the only
    error; ranking drawn tokens, as Chang et al. do, is inexact even then. Errors of a network matter more than in a
    random order: the most confident tokens come first, and the entropy of samples falls.
    """

    absorbing_only: ClassVar[bool] = True

    def begin(self, state: SamplerState) -> SamplerState:
        """Store the number of masks to unmask."""
        masked = masks_on_host(self, state)
        return keep_masks(replace(state, cache={"masks": masked.sum(1)}), masked)

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask the most confident positions with probability one."""
        sigma, count = (upload(found, state.tokens.device) for found in self._count_unmasked(state))
        log_x_0 = self.denoiser.log_x0(state.tokens, sigma)
        masked = free_masks(self, state)
        return Proposal(_select_most_confident(log_x_0.amax(-1), masked, count).to(torch.float64), log_x_0.exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Unmask the most confident positions of the rows that unmask any in this step."""
        sigma, count = self._count_unmasked(state)
        uniforms, masks = state.generators.rand(state.tokens.shape[1]), masks_on_host(self, state)

        def choose(log_x_0: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
            confidence = scatter_back(log_x_0.amax(-1), masked)
            return _select_most_confident(confidence, masked, upload(count[rows], masked.device))

        tokens, chosen = unmask_chosen(self, state, sigma, masks & (count > 0)[:, None], uniforms, choose)
        return keep_masks(self.advance(state, tokens, count > 0), masks & ~chosen)

    def _count_unmasked(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Return the noise level [B] and the number [B] of masks to unmask in this step, from the schedule's masked share.

        Both are on the CPU.
        """
        sigma, sigma_next = self.host_levels(state)
        top = self.process.schedule.sigma(torch.ones_like(state.t))
        share = torch.expm1(-sigma_next) / torch.expm1(-top)
        masked = masks_on_host(self, state).sum(1)
        left = torch.floor(state.cache["masks"] * share + 1e-9).long()
        return sigma, (masked - left).clamp_min(0)


def _select_most_confident(confidence: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """Return the `count` [B] masked positions of highest confidence [B, L], bool [B, L]; ties go to the earlier one."""
    order = confidence.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < count[:, None]) & masked
