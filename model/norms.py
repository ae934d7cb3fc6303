"""Norms whose input and weights may differ in dtype: LayerNorm (Ba et al. 2016) and RMSNorm (arXiv 1910.07467)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def narrower(x: Tensor, weight: Tensor) -> torch.dtype:
    """Return the narrower dtype of x and a norm's weight, each of any shape: that of the layers after the norm.

    They differ where a float32 residual stream meets bfloat16 weights, as under FSDP, and the reverse under autocast.
    """
    return weight.dtype if weight.dtype.itemsize < x.dtype.itemsize else x.dtype


class LayerNorm(nn.LayerNorm):
    """LayerNorm over x [..., d_model] of any float dtype; statistics are float32 or wider.

    PyTorch's own accumulates in float32 too, and takes weights of x's dtype alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., d_model]; the result has the narrower dtype of x and the weights."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(wide)
        out = F.layer_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), bias, self.eps)
        return out.to(narrower(x, self.weight))


class RMSNorm(nn.RMSNorm):
    """RMSNorm over x [..., width] of any float dtype; statistics are float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., width]; the result has the narrower dtype of x and the weights."""
        assert self.weight is not None
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        out = F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps)
        return out.to(narrower(x, self.weight))
