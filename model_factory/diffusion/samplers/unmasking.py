"""Unmasking, shared by samplers of absorbing noise: which masks remain, and drawing tokens for some of them.

Which masks are lifted does not depend on the tokens that were drawn, for most samplers, so a copy of the masks on the CPU
follows the tokens of another device without reading them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Sampler
from model_factory.diffusion.samplers.state import SamplerState

MASKS, FROZEN = "masks on the host", "frozen on the host"


def free_masks(sampler: Sampler, state: SamplerState) -> Tensor:
    """Return the masks that are not frozen, bool [B, L]."""
    return sampler.process.graph.is_masked(state.tokens) & ~state.frozen


def masks_on_host(sampler: Sampler, state: SamplerState) -> Tensor:
    """Return the masks that are not frozen, bool [B, L] on the CPU; those of another device are read in the first call."""
    known = state.cache.get(MASKS)
    return free_masks(sampler, state).cpu() if known is None else known


def tokens_of(sampler: Sampler, masks: Tensor) -> Tensor:
    """Return tokens int64 [B, L] with masks where bool [B, L] is True, for what depends on no other token."""
    return masks.long() * sampler.process.graph.num_tokens


def keep_masks(state: SamplerState, masks: Tensor) -> SamplerState:
    """Return the state that knows its masks, bool [B, L] on the CPU; tokens on the CPU are looked at instead."""
    if state.tokens.device.type == "cpu":
        return state
    return replace(state, cache={**state.cache, MASKS: masks})


def frozen_on_host(state: SamplerState) -> Tensor:
    """Return the frozen positions, bool [B, L] on the CPU."""
    known = state.cache.get(FROZEN)
    return state.frozen.cpu() if known is None else known


def unmask(
    sampler: Sampler, state: SamplerState, sigma: Tensor, chosen: Tensor, uniforms: Tensor, *, every_row: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw clean tokens at the chosen positions, bool [B, L], calling the network for rows that have any, or for all.

    sigma is [B]; uniforms are float64 [B, L] in [0, 1); these three are on the CPU.
    Returns the tokens [B, L] and the rows that were evaluated, bool [B] on the CPU.
    """
    any_chosen = chosen.any(1)
    evaluated = any_chosen.any().expand(len(chosen)) if every_row else any_chosen
    rows = evaluated.nonzero()[:, 0]
    if rows.numel() == 0:
        return state.tokens, evaluated
    device = state.tokens.device
    at = None if every_row else upload(rows, device)
    x_t = state.tokens if at is None else state.tokens[at]
    where = upload(positions(chosen[rows]), device)
    log_x_0 = sampler.denoiser.log_x0(x_t, upload(sigma[rows], device), at, where)
    drawn = invert_distribution(log_x_0.exp(), upload(uniforms[chosen], device))
    return put(state.tokens, positions(chosen), drawn), evaluated


def unmask_chosen(
    sampler: Sampler,
    state: SamplerState,
    sigma: Tensor,
    masks: Tensor,
    uniforms: Tensor,
    choose: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Draw clean tokens at masks that the network's output decides on, which is the one read of a step.

    Arguments:
        sigma, masks, uniforms: [B], bool [B, L] and float64 [B, L] on the CPU; rows without a mask are not evaluated.
        choose: maps log-probabilities [n, dim] at the masks, the masks bool [b, L] of the rows on the device, and the
            rows int64 [b] on the CPU to the masks to unmask, bool [b, L].
    Returns the tokens [B, L], and the unmasked positions, bool [B, L] on the CPU.
    """
    rows = masks.any(1).nonzero()[:, 0]
    chosen = torch.zeros_like(masks)
    if rows.numel() == 0:
        return state.tokens, chosen
    device = state.tokens.device
    at, masked = upload(rows, device), masks[rows]
    where = upload(positions(masked), device)
    log_x_0 = sampler.denoiser.log_x0(state.tokens[at], upload(sigma[rows], device), at, where)
    chosen[rows] = choose(log_x_0, upload(masked, device), rows).cpu()
    among = upload(positions(chosen[rows][masked]), device)
    drawn = invert_distribution(log_x_0[among].exp(), upload(uniforms[chosen], device))
    return put(state.tokens, positions(chosen), drawn), chosen


def scatter_back(values: Tensor, masked: Tensor) -> Tensor:
    """Return values [n] at the n masks of bool [b, L], float [b, L], 0 elsewhere."""
    return torch.zeros(masked.shape, dtype=values.dtype, device=values.device).masked_scatter(masked, values)


def positions(chosen: Tensor) -> Tensor:
    """Return the places, int64 [n], at which bool [B, L] is True, counted through all rows."""
    return chosen.flatten().nonzero()[:, 0]


def put(tokens: Tensor, places: Tensor, drawn: Tensor) -> Tensor:
    """Return tokens [B, L] with those drawn, [n], at places int64 [n] of the CPU."""
    return tokens.flatten().index_copy(0, upload(places, tokens.device), drawn).view_as(tokens)


def sigma_at_masked_share(sampler: Sampler, share: Tensor) -> Tensor:
    """Return the noise level [B] at which this share of the masks at t = 1 remains: 1 - alpha falls with the masks."""
    schedule = sampler.process.schedule
    top, floor = (schedule.sigma(torch.full_like(share, end, dtype=torch.float64)) for end in (1.0, 0.0))
    return torch.minimum(-torch.log1p(share * torch.expm1(-top)), top).maximum(floor)
