"""Samplers of FlexMDM: rows begin empty, gaps get masks, and masks become tokens."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.errors import LengthError, SettingError
from model_factory.diffusion.objectives.alignment import ABSENT, has_gap
from model_factory.diffusion.objectives.insertion import GapParameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState


class InsertionSampler(Sampler):
    """Euler steps: a gap with g expected missing tokens gets one mask with probability g share, at most 1.

    `share` is that of the missing tokens which a step inserts; a mask becomes a token with the same probability. The
    step before the last one reaches t = 0 and inserts all that is missing, and the last one unmasks what is left: a last
    step that inserts nothing leaves samples short, and has two to three times the error on toys. Positions after the end
    of a row are ABSENT; a row that fills the state's length gets no more masks. Raises SettingError for a single step.
    """

    absorbing_only = True

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> None:
        super().__init__(process, denoiser, steps)
        if not isinstance(denoiser.parameterisation, GapParameterisation):
            raise SettingError("sampler", type(self).__name__, "a network of objective flexmdm")
        self.gaps = denoiser.parameterisation
        if steps < 2:
            raise SettingError("steps", steps, "2 or more: one to insert tokens, and the last one to unmask them")

    def time(self, step: int) -> float:
        """Return the time after `step` steps, on an even grid from 1 to 0 that ends one step before the last."""
        return max(0.0, 1.0 - step / (self.steps - 1))

    def begin(self, state: SamplerState) -> SamplerState:
        """Return the state with empty rows; raise LengthError for tokens to keep and for rows of given lengths."""
        if bool(state.frozen.any()):
            raise LengthError(
                "prompt or mask",
                "tokens to keep",
                "none: at t = 1 a row is empty, so the network has no distribution given tokens there, and it draws lengths",
            )
        return replace(state, tokens=torch.full_like(state.tokens, ABSENT))

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask each mask, as `transitions` does."""
        return self.transitions(state)[0]

    def transitions(self, state: SamplerState) -> tuple[Proposal, Tensor]:
        """Return the proposal for the tokens, and probabilities [B, L + 1, K] of 0, 1, ... masks inserted in each gap.

        All are independent given the state; masks that are inserted are unmasked by later steps.
        """
        sigma, following = self.levels(state)
        is_last = state.step + 1 >= self.steps
        share = torch.ones_like(sigma)
        if not is_last:
            share -= self.gaps.missing(following) / self.gaps.missing(sigma)
        length = max(1, int((state.tokens != ABSENT).sum(1).max()))  # of the longest row so far
        rest = state.tokens.shape[1] - length
        seen = state.tokens[:, :length]
        output = self.denoiser.output(seen, sigma)
        tokens = seen.clamp_min(0)
        target = self.denoiser.clean_log_probs(output[:, 1:], tokens, sigma).exp()
        move = torch.where(self.process.graph.is_masked(tokens), share[:, None], 0.0)
        inserted = self.insertions(output, sigma, share)
        none = torch.zeros_like(inserted)
        none[..., 0] = 1.0
        inserted = torch.where(has_gap(seen)[..., None] & (not is_last), inserted, none)
        inserted = torch.cat([inserted, none[:, :1].expand(-1, rest, -1)], 1)
        return Proposal(F.pad(move, (0, rest)), F.pad(target, (0, 0, 0, rest))), inserted

    def insertions(self, output: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
        """Return probabilities [B, L + 1, K] of inserting 0 to K - 1 masks in each gap, for sigma and share [B]."""
        one = (self.gaps.expected_gaps(output, sigma) * share[:, None]).clamp_max(1.0)
        return torch.stack([1 - one, one], -1)

    def step(self, state: SamplerState) -> SamplerState:
        """Unmask tokens and insert masks, with one network call for each row."""
        proposal, inserted = self.transitions(state)
        tokens = proposal.draw(state.tokens, state.frozen, state.generators)
        sizes = invert_distribution(inserted, upload(state.generators.rand(inserted.shape[1]), inserted.device))
        tokens = insert_masks(tokens, sizes, self.process.graph.dim - 1)
        return self.advance(state, tokens, torch.ones_like(state.network_calls))


class ThinnedInsertionSampler(InsertionSampler):
    """Draw the size of each gap from the network, and insert each of its missing tokens with probability `share`.

    Raises SettingError for a network that predicts expected gaps only.
    """

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> None:
        super().__init__(process, denoiser, steps)
        if not self.gaps.counts:
            raise SettingError("sampler", "thinned_insertion for gaps: expected", "gaps: counts, or insertion")

    def insertions(self, output: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
        """Return the binomially thinned distribution [B, L + 1, K + 1] of the sizes 0 to K of each gap."""
        sizes = self.gaps.log_gaps(output, sigma).exp()
        return sizes @ _thinning(sizes.shape[-1], share)


def insert_masks(tokens: Tensor, sizes: Tensor, mask: int) -> Tensor:
    """Insert `sizes` [B, L + 1] masks before each token of rows [B, L] and after the last; later ones that do not fit are dropped."""
    present = tokens != ABSENT
    length, width = present.sum(1, keepdim=True), tokens.shape[1]
    before = sizes.cumsum(1).minimum(width - length)
    places = torch.arange(width, device=tokens.device)
    found = torch.where(places < length + before[:, -1:], mask, ABSENT)
    row = present.nonzero()[:, 0]
    found[row, (places + before[:, :-1])[present]] = tokens[present]
    return found


def _thinning(size: int, share: Tensor) -> Tensor:
    """Return the probabilities [B, size, size] that of k items, each kept with probability `share` [B], c are kept."""
    items = torch.arange(size, device=share.device, dtype=torch.float64)
    k, c, share = items[:, None], items, share[:, None, None]
    log_ways = torch.lgamma(k + 1) - torch.lgamma(c + 1) - torch.lgamma((k - c).clamp_min(0) + 1)
    log_kept = torch.xlogy(c, share) + torch.special.xlog1py((k - c).clamp_min(0), -share)
    return torch.where(c <= k, (log_ways + log_kept).exp(), 0.0)
