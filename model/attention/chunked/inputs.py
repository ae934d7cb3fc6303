"""Tensors of a call, and the part of them that a group of chunks uses."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.attention.chunked.features import LOG2_E, Kernel
from model.attention.chunked.plan import Workspace, chunks_at_once

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

    @property
    def at_once(self) -> int:
        """Chunks of a group over all heads."""
        wide = torch.promote_types(self.q.dtype, torch.float32)
        return chunks_at_once(self.q.device.type, self.nb_features, self.v.shape[-1], wide)

    def padded(self, missing: int) -> "Inputs":
        """Return the inputs with `missing` masked tokens after the last one."""
        mask = self.key_mask
        if mask is None:
            mask = torch.ones(self.k.shape[0], self.k.shape[2], dtype=torch.bool, device=self.k.device)
        q, k, v = (pad_tokens(x, missing) for x in (self.q, self.k, self.v))
        scale = None if self.log_scale is None else pad(self.log_scale, (0, missing))
        return Inputs(q, k, v, pad(mask, (0, missing)), scale, self.kernel)

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


def pad_tokens(x: Tensor, missing: int) -> Tensor:
    """Return x [B, H, N, D] with `missing` tokens of zeros after the last one."""
    return pad(x, (0, 0, 0, missing))


def part(x: Tensor, rows: slice, tokens: slice, space: Workspace, name: str) -> Tensor:
    """Return x[rows, :, tokens] with batch and heads as one dimension, [R, T, D], in the dtype of `space`.

    It is a view if possible, else a copy in the buffer `name`, and must not be written to.
    """
    selected = x[rows, :, tokens]
    is_joined = selected.shape[0] == 1 or selected.stride(0) == selected.shape[1] * selected.stride(1)
    if selected.dtype != space.dtype or not is_joined:
        selected = space(name, *selected.shape).copy_(selected)
    return selected.flatten(0, 1)
