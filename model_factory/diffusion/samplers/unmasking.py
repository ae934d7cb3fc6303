"""Unmasking, shared by samplers of absorbing noise: which masks remain, and drawing tokens for some of them."""

import torch
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.samplers.base import Sampler
from model_factory.diffusion.samplers.state import SamplerState


def free_masks(sampler: Sampler, state: SamplerState) -> Tensor:
    """Return the masks that are not frozen, bool [B, L]."""
    return sampler.process.graph.is_masked(state.tokens) & ~state.frozen


def unmask(
    sampler: Sampler, state: SamplerState, sigma: Tensor, chosen: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw clean tokens at the chosen positions, bool [B, L], calling the network for rows that have any.

    sigma is [B]; uniforms are float64 [B, L] in [0, 1).
    Returns the tokens [B, L] and the rows that were evaluated, bool [B].
    """
    evaluated = chosen.any(1)
    rows = evaluated.nonzero()[:, 0]
    if rows.numel() == 0:
        return state.tokens, evaluated
    log_x_0 = sampler.denoiser.log_x0(state.tokens[rows], sigma[rows], rows, chosen[rows])
    tokens = state.tokens.clone()
    tokens[chosen] = invert_distribution(log_x_0.exp(), uniforms[chosen])
    return tokens, evaluated


def sigma_at_masked_share(sampler: Sampler, share: Tensor) -> Tensor:
    """Return the noise level [B] at which this share of the masks at t = 1 remains: 1 - alpha falls with the masks."""
    schedule = sampler.process.schedule
    top, floor = (schedule.sigma(torch.full_like(share, end, dtype=torch.float64)) for end in (1.0, 0.0))
    return torch.minimum(-torch.log1p(share * torch.expm1(-top)), top).maximum(floor)
