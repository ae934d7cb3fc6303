"""Semi-autoregressive sampling, for BD3LM (Arriola et al. 2025) and masked models with full attention (LLaDA)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, check_count
from model_factory.diffusion.objectives.block import block_numbers
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.diffusion.samplers.unmasking import keep_masks, masks_on_host, sigma_at_masked_share, unmask


class SemiAutoregressiveSampler(Sampler):
    """Unmask one block after the other, the tokens of a block in a random order, evenly over its calls.

    The order does not depend on the tokens, so one token per call is exact with an exact network; several at once are
    drawn independently, which is the only error.

    Arguments:
        steps: network calls for the whole length; a block gets its share, at least one and at most one per token. For
            `steps` >= length samples are exact.
        block_size: tokens of a block; a blockwise network (`denoiser.block_size`) overrides it.
    The network is conditioned on the noise level at which the expected share of masks is that of the row, or of the
    block if it sees only that. Raises SettingError.
    """

    absorbing_only: ClassVar[bool] = True

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int, *, block_size: int = 16) -> None:
        super().__init__(process, denoiser, steps)
        self.block_size = denoiser.block_size or check_count("block_size", block_size)

    def begin(self, state: SamplerState) -> SamplerState:
        """Draw the call in which each token is unmasked; raise SettingError for frozen tokens in later blocks."""
        masked = masks_on_host(self, state)
        if self.denoiser.block_size is not None:
            self._check_frozen(state, masked)
        state = replace(state, cache={"turn": self.turns(masked, state.generators.rand(masked.shape[1]))})
        return keep_masks(state, masked)

    def turns(self, masked: Tensor, draws: Tensor) -> Tensor:
        """Return the call, from 0, in which each token is unmasked, int64 [B, L]; -1 at unmasked positions.

        masked is bool [B, L]; draws, uniform [B, L], order the positions of a block.
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
        kept = state.frozen if self.denoiser.mask is None else state.frozen & self.denoiser.mask
        if bool((kept.cpu() & (block > first)).any()):
            raise SettingError(
                "frozen", "a token after the first block with masks", "a prompt: blocks do not attend to later ones"
            )

    def is_finished(self, state: SamplerState) -> bool:
        """Return True if no mask remains."""
        return not bool(masks_on_host(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask the positions of this call with probability one."""
        device = state.tokens.device
        chosen = upload(state.cache["turn"] == state.step, device)
        log_x_0 = self.denoiser.log_x0(state.tokens, upload(self._sigma(state), device))
        return Proposal(chosen.to(torch.float64), log_x_0.exp())

    def step(self, state: SamplerState) -> SamplerState:
        """Unmask the positions of this call."""
        chosen, sigma = state.cache["turn"] == state.step, self._sigma(state)
        uniforms, masks = state.generators.rand(state.tokens.shape[1]), masks_on_host(self, state)
        # A network that predicts one block caches keys and values of every row, so it is called for all of them.
        every_row = self.denoiser.block_size is not None
        tokens, evaluated = unmask(self, state, sigma, chosen, uniforms, every_row=every_row)
        left = masks & ~chosen
        state = keep_masks(self.advance(state, tokens, evaluated), left)
        t = self.process.schedule.inverse(self._sigma(state))
        return replace(state, t=torch.where(left.any(1), t, 0.0))

    def _calls(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the first call and the number of calls of each block, int64, the same for all rows."""
        sizes = torch.bincount(block_numbers(length, self.block_size, device))
        calls = (self.steps * sizes.double() / length).round().long().clamp_min(1).minimum(sizes)
        return calls.cumsum(0) - calls, calls

    def _sigma(self, state: SamplerState) -> Tensor:
        """Return the noise level [B], on the CPU, at which the share of masks is that of the row, or of the current block."""
        turn, masked = state.cache["turn"], masks_on_host(self, state)
        counted = turn >= 0
        if self.denoiser.block_size is not None:
            starts, calls = self._calls(masked.shape[1], masked.device)
            now = int(((starts <= state.step) & (state.step < starts + calls)).long().argmax())
            counted &= block_numbers(masked.shape[1], self.block_size, masked.device) == now
        return sigma_at_masked_share(self, (masked & counted).sum(1).double() / counted.sum(1).clamp_min(1))
