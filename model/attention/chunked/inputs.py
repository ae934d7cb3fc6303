"""Tensors of a call, and the part of them that a group of chunks uses."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.chunked.features import LOG2_E, Kernel
from model.attention.chunked.plan import Workspace

NO_KEY_YET = -1e30
"""Running maximum before the first key: finite, so that -inf (a masked key) minus it is not NaN."""


class Inputs(NamedTuple):
    """q [B, H, N, D], k [B, H, M, D], v [B, H, M, E], key_mask bool [B, M], log_scale [B, H, M] and the kernel."""

    q: Tensor
    k: Tensor
    v: Tensor
    key_mask: Tensor | None
    log_scale: Tensor | None
    kernel: Kernel

    @property
    def nb_features(self) -> int:
        """Number m of features."""
        return self.kernel.nb_features(self.q.shape[-1])

    def log_weights(self, rows: slice, tokens: slice, dtype: torch.dtype) -> Tensor | None:
        """Return what mask and log scales add to the scale of keys, in log2: [R, T], or None for nothing."""
        if self.key_mask is None and self.log_scale is None:
            return None
        k = self.k[rows, :, tokens]
        weights = torch.zeros(k.shape[:-1], dtype=dtype, device=k.device)
        if self.log_scale is not None:
            weights += LOG2_E * self.log_scale[rows, :, tokens]
        if self.key_mask is not None:
            weights.masked_fill_(~self.key_mask[rows, None, tokens], -torch.inf)
        return weights.flatten(0, 1)


def part(x: Tensor, rows: slice, tokens: slice, space: Workspace, name: str) -> Tensor:
    """Return x[rows, :, tokens] with batch and heads as one dimension, [R, T, D], in the dtype of `space`.

    It is a view if possible, else a copy in the buffer `name`, and must not be written to.
    """
    selected = x[rows, :, tokens]
    is_joined = selected.shape[0] == 1 or selected.stride(0) == selected.shape[1] * selected.stride(1)
    if selected.dtype != space.dtype or not is_joined:
        selected = space(name, *selected.shape).copy_(selected)
    return selected.flatten(0, 1)
