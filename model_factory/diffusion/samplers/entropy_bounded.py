"""The entropy-bounded sampler, which unmasks as many tokens per call as their entropies allow (Ben-Hamu et al. 2025)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_number
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import upload
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.diffusion.samplers.unmasking import (
    free_masks,
    keep_masks,
    masks_on_host,
    scatter_back,
    sigma_at_masked_share,
    unmask_chosen,
)


class EntropyBoundedSampler(Sampler):
    """Unmask the tokens of least entropy, as many as are nearly independent (Ben-Hamu et al. 2025, arXiv 2505.24857).

    The joint distribution of a set of tokens and the product of their marginals differ by KL = sum of entropies - joint
    entropy. It is at most sum - max, since the joint entropy is at least each of them. A call unmasks the largest set,
    in order of entropy, that keeps this bound within `gamma`, and at least one token. Entropies are computed before
    anything is drawn, so with an exact network the divergences of the calls add up: KL(data, samples) is at most gamma
    times the mean number of calls that unmask several tokens, and the total variation at most sqrt(KL / 2) (Pinsker).
    With gamma = 0 a call unmasks several tokens only if all but one are certain, and samples are exact.

    The network is conditioned on the noise level at which the expected share of masks is that of the row.

    Arguments:
        steps: ignored; a row takes as many calls as the entropies need, at most one for each mask.
        gamma: nats, 0 or more.
    Raises SettingError.
    """

    absorbing_only: ClassVar[bool] = True

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int, *, gamma: float = 0.1) -> None:
        super().__init__(process, denoiser, steps)
        self.gamma = check_number("gamma", gamma, 0.0, 1e6)

    def begin(self, state: SamplerState) -> SamplerState:
        """Store the number of masks to unmask."""
        masks = masks_on_host(self, state)
        return keep_masks(replace(state, cache={"masks": masks.sum(1)}), masks)

    def is_finished(self, state: SamplerState) -> bool:
        """Return True if no mask remains."""
        return not bool(masks_on_host(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """Propose to unmask the positions within the bound with probability one."""
        masked = free_masks(self, state)
        probs = self.denoiser.log_x0(state.tokens, upload(self._sigma(state), state.tokens.device)).exp()
        return Proposal(select_within_bound(entropy(probs), masked, self.gamma).to(torch.float64), probs)

    def step(self, state: SamplerState) -> SamplerState:
        """Unmask positions of the rows that have masks."""
        masks, sigma = masks_on_host(self, state), self._sigma(state)
        uniforms = state.generators.rand(state.tokens.shape[1])

        def choose(log_x_0: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
            return select_within_bound(scatter_back(entropy(log_x_0.exp()), masked), masked, self.gamma)

        tokens, chosen = unmask_chosen(self, state, sigma, masks, uniforms, choose)
        left = masks & ~chosen
        state = keep_masks(self.advance(state, tokens, masks.any(1)), left)
        t = self.process.schedule.inverse(self._sigma(state))
        return replace(state, t=torch.where(left.any(1), t, 0.0))

    def _sigma(self, state: SamplerState) -> Tensor:
        """Return the noise level [B], on the CPU, at which the expected share of masks is that of the row."""
        masks = masks_on_host(self, state).sum(1)
        return sigma_at_masked_share(self, masks.double() / state.cache["masks"].clamp_min(1))


def entropy(probs: Tensor) -> Tensor:
    """Return entropies [...] in nats of distributions [..., dim]."""
    terms: Tensor = torch.special.xlogy(probs, probs)
    return -terms.sum(-1)


def select_within_bound(entropies: Tensor, masked: Tensor, gamma: float) -> Tensor:
    """Select the masked positions [B, L] of least entropy with sum - max at most gamma, at least one in each row.

    Ties go to the earlier position. Returns bool [B, L].
    """
    ordered, order = entropies.masked_fill(~masked, torch.inf).sort(dim=1, stable=True)
    # The sum of each prefix without its last and largest entropy.
    others = torch.nn.functional.pad(ordered[:, :-1].cumsum(1), (1, 0))
    return torch.zeros_like(masked).scatter(1, order, others <= gamma) & masked
