"""Sampling of latents: the step from one time to an earlier one, and half precision of the network."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.errors import check_number
from diffusion.gaussian import GaussianDiffusion, Variance
from model.inputs import InputError

Sampler = Literal["ancestral", "ddim"]


@dataclass(frozen=True)
class LatentStep:
    """Step of a sampler: `ancestral` with a variance (Ho et al. 2020), or `ddim` with eta in [0, 1] (Song et al. 2021).

    Raises InputError for an unknown sampler or an eta with `ancestral`, SettingError for an eta outside [0, 1].
    """

    sampler: Sampler
    eta: float
    variance: Variance

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise InputError(f"sampler is {self.sampler!r}; use 'ancestral' or 'ddim'")
        if check_number("eta", self.eta, 0.0, 1.0) and self.sampler == "ancestral":
            raise InputError(f"eta is {self.eta:g}, which only sampler 'ddim' uses; leave it out")

    def take(
        self, diffusion: GaussianDiffusion, x_t: Tensor, x_0: Tensor, t: int, s: int, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Compute x_s from x_t and an estimate of x_0, all [B, ...].

        `draw` returns noise of that shape; it is called only if noise is used, never at s = 0.
        """
        if self.sampler == "ddim":
            noise = draw() if s > 0 and self.eta > 0 else None
            return diffusion.ddim_step(x_t, x_0, t, s, 0.0 if noise is None else self.eta, noise)
        return diffusion.ancestral_step(x_t, x_0, t, s, draw() if s > 0 else None, self.variance)


def half_precision(device: torch.device, enabled: bool) -> "torch.autocast | nullcontext[None]":
    """Return autocast in float16, on the CPU in bfloat16, if enabled."""
    if not enabled:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else torch.float16)
