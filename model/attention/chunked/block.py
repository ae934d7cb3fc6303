"""Block of batch rows that are computed together, group by group."""

import torch
from torch import Tensor

from model.attention.chunked.features import ChunkFeatures
from model.attention.chunked.inputs import NO_KEY_YET, Inputs, part
from model.attention.chunked.plan import Group, Workspace
from model.attention.chunked.state import Sums, zero_sums

UNDERFLOW = 1e-30
"""Denominators below it lose digits in float32, whose smallest normal number is 1e-38."""


def safe_divisor(denominators: Tensor) -> Tensor:
    """Clamp denominators, of any shape, to be positive. No epsilon is added: a usual denominator is 1e-8."""
    return denominators.clamp(min=torch.finfo(denominators.dtype).tiny)


class Block:
    """Batch rows `rows` of `inputs` in the dtype of `space`; R is their number times the heads."""

    def __init__(self, inputs: Inputs, rows: slice, space: Workspace) -> None:
        self.inputs, self.rows, self.space = inputs, rows, space
        batch, heads = rows.stop - rows.start, inputs.q.shape[1]
        self.size = batch * heads  # R
        self.features = ChunkFeatures(inputs.kernel, batch, heads, space)

    def part(self, x: Tensor, group: Group, name: str) -> Tensor:
        """Return x [B, H, N, D] at the group's tokens, [R, T, D], in the buffer `name` if it must be copied."""
        return part(x, self.rows, group.tokens, self.space, name)

    def queries(self, group: Group) -> tuple[Tensor, Tensor]:
        """Return q [R, T, D] of the group and its features [R, T, m]."""
        q = self.part(self.inputs.q, group, "q")
        return q, self.features.queries(q)

    def keys(self, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        """Return k [R, T, D] of the group, its features [R, T, m] and their scales [R, T] in log2."""
        k = self.part(self.inputs.k, group, "k")
        return k, *self.features.keys(k, self.inputs.log_weights(self.rows, group.tokens, self.space.dtype))

    def start(self) -> Sums:
        """Return the sums before any key, which are 0."""
        return zero_sums(self.size, self.inputs.nb_features, self.inputs.v.shape[-1], self.space)

    def is_empty(self, sums: Sums) -> Tensor:
        """Return bool [R, 1], True where a row has no key."""
        return (sums.peak <= NO_KEY_YET)[:, None]

    def divide(self, numerator: Tensor, denominator: Tensor, group: Group, out: Tensor, denominators: Tensor) -> None:
        """Write the group's quotients into out [B, H, N, E], and its denominators into [B, H, N]."""
        target, kept = out[self.rows, :, group.tokens], denominators[self.rows, :, group.tokens]
        kept.copy_(denominator.view(kept.shape))
        torch.div(numerator.view(target.shape), safe_divisor(kept).unsqueeze(-1), out=target)
