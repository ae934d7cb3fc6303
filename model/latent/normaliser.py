"""Normalise latents by their running mean and standard deviation, for a diffusion at unit scale."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

DECAY = 0.99


class LatentNormaliser(nn.Module):
    """Normalisation z -> (z - mean) / std of each coordinate by running averages over the batches of all processes.

    The averages stay float32 in a model of any dtype: a variance is their small difference.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_size))
        self.register_buffer("square", torch.ones(latent_size))
        self.register_buffer("seen", torch.zeros(()))

    def _apply(self, fn: Any, recurse: bool = True) -> "LatentNormaliser":
        averages = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in averages.items():
            if not buffer.is_meta:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    @torch.no_grad()
    def observe(self, latent: Tensor) -> None:
        """Update the averages with latents [B, latent_size]; over the first batches they are plain means."""
        x = latent.detach().float()
        sums = torch.cat([x.sum(0), x.square().sum(0), x.new_full((1,), len(x))])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        self.seen += 1
        share = self.seen.reciprocal().clamp_min(1 - DECAY)
        self.mean += share * (mean - self.mean)
        self.square += share * (square - self.square)

    @property
    def std(self) -> Tensor:
        """Return the standard deviation [latent_size], at least 1e-3."""
        return (self.square - self.mean.square()).clamp_min(1e-6).sqrt()

    def forward(self, latent: Tensor) -> Tensor:
        """Normalise latents [B, latent_size] to mean 0 and variance 1."""
        return ((latent - self.mean) / self.std).to(latent.dtype)

    def invert(self, normal: Tensor) -> Tensor:
        """Undo the normalisation of latents [B, latent_size]."""
        return (normal * self.std + self.mean).to(normal.dtype)
