"""Inputs and outputs of backward."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.chunked.block import safe_divisor
from model.attention.chunked.inputs import part
from model.attention.chunked.plan import Workspace

LARGEST = 1e34
"""Bound of float32 gradients over denominators, whose products with values must stay below 3e38."""


class Gradients(NamedTuple):
    """Gradients of q, k, v and of the keys' log scales [B, H, M], written block by block."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_scale: Tensor

    def store(self, rows: slice, tokens: slice, **parts: Tensor) -> None:
        """Write the gradients [R, T, ...] of the batch rows `rows` and `tokens`."""
        for name, gradient in parts.items():
            target = getattr(self, name)[rows, :, tokens]
            target.copy_(gradient.reshape(target.shape))


class Results(NamedTuple):
    """Gradient of the output, output and denominators, whose quotients backward needs."""

    gradient: Tensor
    out: Tensor
    denominators: Tensor

    def quotients(self, rows: slice, tokens: slice, space: Workspace) -> tuple[Tensor, Tensor]:
        """Return g' [R, T, E] and e [R, T, 1]; both are 0 in a row without a key."""
        gradient = part(self.gradient, rows, tokens, space, "gradient")
        out = part(self.out, rows, tokens, space, "out")
        inverse = safe_divisor(self.denominators[rows, :, tokens].flatten(0, 1)).reciprocal().unsqueeze(-1)
        scaled = torch.mul(gradient, inverse, out=space("scaled", *gradient.shape))
        if scaled.device.type != "cpu" and scaled.dtype == torch.float32:  # a CPU computes such rows in float64
            scaled.clamp_(-LARGEST, LARGEST)
        return scaled, -torch.mul(scaled, out, out=space("shares", *out.shape)).sum(-1, keepdim=True)
