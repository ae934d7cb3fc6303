"""What samplers of the absorbing process share: where masks are left, and what lifted ones become."""

import torch
from torch import Tensor

from diffusion.categorical import invert_distribution
from diffusion.samplers.base import Sampler
from diffusion.samplers.state import SamplerState


def free_masks(sampler: Sampler, state: SamplerState) -> Tensor:
    """Where masks are left that are to be lifted, bool [B, L]."""
    return sampler.process.graph.is_masked(state.tokens) & ~state.frozen


def unmask(
    sampler: Sampler, state: SamplerState, sigma: Tensor, chosen: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw clean tokens at the chosen places, bool [B, L], calling the network for rows that have any.

    sigma is [B]; uniforms float64 [B, L] in [0, 1) decide the draws.
    Returns the tokens [B, L] and which rows were evaluated, bool [B].
    """
    evaluated = chosen.any(1)
    rows = evaluated.nonzero()[:, 0]
    if rows.numel() == 0:
        return state.tokens, evaluated
    law = sampler.denoiser.log_x0(state.tokens[rows], sigma[rows], rows, chosen[rows])
    tokens = state.tokens.clone()
    tokens[chosen] = invert_distribution(law.exp(), uniforms[chosen])
    return tokens, evaluated


def sigma_at_masked_share(sampler: Sampler, share: Tensor) -> Tensor:
    """Noise level [B] at which this share of the masks of t = 1 is left: 1 - alpha falls with the masks."""
    schedule = sampler.process.schedule
    top, floor = (schedule.sigma(torch.full_like(share, end, dtype=torch.float64)) for end in (1.0, 0.0))
    return torch.minimum(-torch.log1p(share * torch.expm1(-top)), top).maximum(floor)
