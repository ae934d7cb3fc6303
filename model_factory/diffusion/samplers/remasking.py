"""The remasking sampler ReMDM, which masks drawn tokens again (Wang et al. 2025)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_number
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import per_token
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.diffusion.samplers.unmasking import (
    FROZEN,
    frozen_on_host,
    keep_masks,
    masks_on_host,
    tokens_of,
    unmask,
)


class RemaskingSampler(Sampler):
    """Ancestral steps in which tokens turn back into masks (ReMDM, Wang et al. 2025, arXiv 2503.00307).

    From time t to s a token is masked again with probability rho = min(eta_cap, eta_rescale rho_max), where rho_max =
    min(1, (1 - alpha_s) / alpha_t), and a mask is unmasked with probability (alpha_s - (1 - rho) alpha_t) / (1 - alpha_t), so that
    q(x_s | x_0) of each token is unchanged. Their max-capped schedule is eta_rescale = 1, their rescaled one eta_cap = 1,
    and either at 0 is `ancestral`.

    rho is a probability per step, so with more steps tokens are redrawn more often. Tokens unmasked together have the
    error of `ancestral`, and redrawing reduces it, more so as t falls: only the error near the last redraw of a token
    remains, and it falls asymptotically as 1 / sqrt(steps).

    Arguments:
        eta_cap, eta_rescale: from 0 to 1.
    Raises SettingError.
    """

    absorbing_only: ClassVar[bool] = True

    def __init__(
        self,
        process: DiffusionProcess,
        denoiser: Denoiser,
        steps: int,
        *,
        eta_cap: float = 0.01,
        eta_rescale: float = 1.0,
    ) -> None:
        super().__init__(process, denoiser, steps)
        self.eta_cap = check_number("eta_cap", eta_cap, 0.0, 1.0)
        self.eta_rescale = check_number("eta_rescale", eta_rescale, 0.0, 1.0)

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask masks and to mask tokens, with `move_probability`."""
        probs = self.denoiser.log_x0(state.tokens, self.levels(state)[0]).exp()
        masks = torch.zeros_like(probs)
        masks[..., self.process.graph.num_tokens] = 1.0
        is_mask = self.process.graph.is_masked(state.tokens)
        move = self.move_probability(state, is_mask.cpu())
        return Proposal(upload(move, state.tokens.device), torch.where(is_mask[..., None], probs, masks))

    def begin(self, state: SamplerState) -> SamplerState:
        """Store which positions are masks, and which are frozen."""
        state = keep_masks(state, masks_on_host(self, state))
        if state.tokens.device.type == "cpu":
            return state
        return replace(state, cache={**state.cache, FROZEN: state.frozen.cpu()})

    def step(self, state: SamplerState) -> SamplerState:
        """Draw the positions that change, then tokens for masks; only rows that unmask any call the network."""
        uniforms, masked = state.generators.rand(2, state.tokens.shape[1]), masks_on_host(self, state)
        moved = (uniforms[:, 0] < self.move_probability(state, masked)) & ~frozen_on_host(state)
        tokens, evaluated = unmask(self, state, self.host_levels(state)[0], moved & masked, uniforms[:, 1])
        again = upload(moved & ~masked, tokens.device)
        state = self.advance(state, tokens.masked_fill(again, self.process.graph.num_tokens), evaluated)
        return keep_masks(state, masked ^ moved)

    def move_probability(self, state: SamplerState, masked: Tensor) -> Tensor:
        """Return the probability [B, L] that a mask is unmasked, or a token masked again; masks are bool [B, L], both on the CPU."""
        graph = self.process.graph
        assert isinstance(graph, AbsorbingGraph)
        sigma, sigma_next = self.host_levels(state)
        rho = self.remask_probability(sigma, sigma_next)
        # (alpha_s - (1 - rho) alpha_t) / (1 - alpha_t) is the ancestral probability plus compensation for rho.
        tokens = tokens_of(self, masked)
        unmasked = graph.unmask_probability(tokens, sigma, sigma_next) + per_token(rho / torch.expm1(sigma), tokens)
        return torch.where(masked, unmasked, per_token(rho, tokens)).clamp_max(1.0)

    def remask_probability(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the probability rho [B] that a token is masked again from sigma to sigma_next."""
        most = (-torch.expm1(-sigma_next) * torch.exp(sigma)).clamp_max(1.0)
        return (self.eta_rescale * most).clamp_max(self.eta_cap)
