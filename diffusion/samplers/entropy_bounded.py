"""Lifting as many masks in a call as their entropies allow: the entropy-bounded sampler (Ben-Hamu et al. 2025)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusion.categorical import invert_distribution
from diffusion.errors import check_number
from diffusion.processes.diffusion_process import DiffusionProcess
from diffusion.samplers.base import Proposal, Sampler
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.unmasking import free_masks, sigma_at_masked_share
from diffusion.samplers.state import SamplerState


class EntropyBoundedSampler(Sampler):
    """Lift the masks of least entropy, as many as can hardly depend on each other (Ben-Hamu et al. 2025, 2505.24857).

    The joint law of a set of tokens and the product of their laws are apart by KL = sum of entropies - joint entropy,
    which is at most sum - max, as the joint entropy is no less than any of them. A call lifts the largest set, taken in
    the order of entropies, that keeps this bound within `gamma`, and one mask at least. Entropies are known before
    anything is drawn, so with the true law the divergences of the calls add up: KL(data, samples) is at most gamma
    times the mean number of calls that lift several, and the total variation at most sqrt(KL / 2) (Pinsker). With gamma
    = 0 several tokens come at once only where all but one are certain, and samples are exact.

    The network is told the noise level at which the share of masks is that of the row.

    Arguments:
        steps: ignored; the entropies say how many calls a row takes, as many as it has masks at most.
        gamma: nats, 0 or more.
    Raises SettingError.
    """

    absorbing_only: ClassVar[bool] = True

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int, *, gamma: float = 0.1) -> None:
        super().__init__(process, denoiser, steps)
        self.gamma = check_number("gamma", gamma, 0.0, 1e6)

    def begin(self, state: SamplerState) -> SamplerState:
        """Count the masks that are to be lifted."""
        return replace(state, cache={"masks": free_masks(self, state).sum(1)})

    def is_finished(self, state: SamplerState) -> bool:
        """Whether no mask is left."""
        return not bool(free_masks(self, state).any())

    def propose(self, state: SamplerState) -> Proposal:
        """The places that the bound allows are lifted for certain."""
        masked = free_masks(self, state)
        law = self.denoiser.log_x0(state.tokens, self._sigma(state)).exp()
        return Proposal(select_within_bound(entropy(law), masked, self.gamma).to(torch.float64), law)

    def step(self, state: SamplerState) -> SamplerState:
        """Lift masks of the rows that have any."""
        masked, sigma = free_masks(self, state), self._sigma(state)
        uniforms = state.generators.rand(state.tokens.shape[1])
        evaluated = masked.any(1)
        rows = evaluated.nonzero()[:, 0]
        law = self.denoiser.log_x0(state.tokens[rows], sigma[rows], rows, masked[rows]).exp()
        entropies = uniforms.new_zeros(len(rows), uniforms.shape[1]).masked_scatter(masked[rows], entropy(law))
        lifted = select_within_bound(entropies, masked[rows], self.gamma)
        chosen = torch.zeros_like(masked).index_put((rows,), lifted)
        tokens = state.tokens.clone()
        tokens[chosen] = invert_distribution(law[lifted[masked[rows]]], uniforms[chosen])
        state = self.advance(state, tokens, evaluated)
        t = self.process.schedule.inverse(self._sigma(state))
        return replace(state, t=torch.where(free_masks(self, state).any(1), t, 0.0))

    def _sigma(self, state: SamplerState) -> Tensor:
        """Noise level [B] at which the share of masks is that of the row."""
        return sigma_at_masked_share(self, free_masks(self, state).sum(1).double() / state.cache["masks"].clamp_min(1))


def entropy(law: Tensor) -> Tensor:
    """Entropies [...] in nats of laws [..., dim]."""
    terms: Tensor = torch.special.xlogy(law, law)
    return -terms.sum(-1)


def select_within_bound(entropies: Tensor, masked: Tensor, gamma: float) -> Tensor:
    """The masked places [B, L] of least entropy with sum - max of entropies at most gamma, at least one a row.

    Ties go to the earlier place. Returns bool [B, L].
    """
    ordered, order = entropies.masked_fill(~masked, torch.inf).sort(dim=1, stable=True)
    others = torch.nn.functional.pad(ordered[:, :-1].cumsum(1), (1, 0))  # of each prefix all but the last, its largest
    return torch.zeros_like(masked).scatter(1, order, others <= gamma) & masked
