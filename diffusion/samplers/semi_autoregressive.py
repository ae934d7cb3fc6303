"""Blocks from left to right: the sampler of BD3LM (Arriola et al. 2025), and of masked models that see all (LLaDA)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusion.categorical import invert_distribution
from diffusion.errors import SettingError, check_count
from diffusion.objectives.block import block_numbers
from diffusion.processes.diffusion_process import DiffusionProcess
from diffusion.samplers.base import Proposal, Sampler
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.unmasking import free_masks, sigma_at_masked_share, unmask
from diffusion.samplers.state import SamplerState


class SemiAutoregressiveSampler(Sampler):
    """Lift the masks of one block after the other, those of a block in a random order, evenly over its calls.

    The order does not depend on the tokens, so that with the true law one mask a call is exact; several at once are
    drawn independently, which is the only error.

    Arguments:
        steps: network calls for the whole length; a block has its share, at least one and at most one a token. From
            `steps` = length on samples are exact.
        block_size: tokens of a block; a network of blocks (`denoiser.block_size`) brings its own.
    The network is told the level at which as large a share of tokens is masked as in the row, or in the block where it
    sees only that. Raises SettingError.
    """

    absorbing_only: ClassVar[bool] = True

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int, *, block_size: int = 16) -> None:
        super().__init__(process, denoiser, steps)
        self.block_size = denoiser.block_size or check_count("block_size", block_size)

    def begin(self, state: SamplerState) -> SamplerState:
        """Draw the call in which each mask is lifted; raises SettingError for tokens that blocks before cannot see."""
        masked = free_masks(self, state)
        if self.denoiser.block_size is not None:
            self._check_frozen(state, masked)
        return replace(state, cache={"turn": self.turns(masked, state.generators.rand(masked.shape[1]))})

    def turns(self, masked: Tensor, draws: Tensor) -> Tensor:
        """The call, numbered from 0, in which each mask is lifted, int64 [B, L]; -1 at places that are no masks.

        masked is bool [B, L]; draws, uniform [B, L], order the places of a block.
        """
        block = block_numbers(masked.shape[1], self.block_size, masked.device)
        starts, calls = self._calls(masked.shape[1], masked.device)
        order = (block + draws).masked_fill(~masked, torch.inf).argsort(1)
        rank = order.argsort(1)  # among the masks of the row
        counts = torch.zeros(len(masked), len(calls), dtype=torch.int64, device=masked.device)
        counts = counts.index_add(1, block, masked.long())
        rank = rank - (counts.cumsum(1) - counts)[:, block]  # among the masks of its block
        turns = starts[block] + rank * torch.minimum(calls, counts)[:, block] // counts[:, block].clamp_min(1)
        return torch.where(masked, turns, -1)

    def _check_frozen(self, state: SamplerState, masked: Tensor) -> None:
        block = block_numbers(masked.shape[1], self.block_size, masked.device)
        first = torch.where(masked, block, len(block)).amin(1, keepdim=True)
        told = state.frozen if self.denoiser.mask is None else state.frozen & self.denoiser.mask
        if bool((told & (block > first)).any()):
            raise SettingError(
                "frozen", "a token behind the first block that is written", "a prompt: blocks do not see later ones"
            )

    def is_finished(self, state: SamplerState) -> bool:
        """Whether no mask is left."""
        return not bool(free_masks(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """The masks whose turn it is are lifted for certain."""
        chosen = state.cache["turn"] == state.step
        return Proposal(chosen.to(torch.float64), self.denoiser.log_x0(state.tokens, self._sigma(state)).exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Lift the masks whose turn it is."""
        chosen, sigma = state.cache["turn"] == state.step, self._sigma(state)
        uniforms = state.generators.rand(state.tokens.shape[1])
        if self.denoiser.block_size is None:
            tokens, evaluated = unmask(self, state, sigma, chosen, uniforms)
        else:  # all rows, as the network keeps what it has seen of them
            tokens, evaluated = state.tokens.clone(), chosen.any().expand(len(chosen))
            if bool(chosen.any()):
                law = self.denoiser.log_x0(state.tokens, sigma, None, chosen)
                tokens[chosen] = invert_distribution(law.exp(), uniforms[chosen])
        state = self.advance(state, tokens, evaluated)
        t = self.process.schedule.inverse(self._sigma(state))
        return replace(state, t=torch.where(free_masks(self, state).any(1), t, 0.0))

    def _calls(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """First call and number of calls of each block, int64; they do not depend on the rows."""
        sizes = torch.bincount(block_numbers(length, self.block_size, device))
        calls = (self.steps * sizes.double() / length).round().long().clamp_min(1).minimum(sizes)
        return calls.cumsum(0) - calls, calls

    def _sigma(self, state: SamplerState) -> Tensor:
        """Noise level [B] at which the share of masks is the row's, or that of the block that is being written."""
        turn, masked = state.cache["turn"], free_masks(self, state)
        counted = turn >= 0
        if self.denoiser.block_size is not None:
            starts, calls = self._calls(masked.shape[1], masked.device)
            now = int(((starts <= state.step) & (state.step < starts + calls)).long().argmax())
            counted &= block_numbers(masked.shape[1], self.block_size, masked.device) == now
        return sigma_at_masked_share(self, (masked & counted).sum(1).double() / counted.sum(1).clamp_min(1))
