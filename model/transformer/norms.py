"""Norms and residual connections: pre-LayerNorm (arXiv 2002.04745), ScaleNorm (1910.05895), ReZero (2003.04887)."""

from typing import Any

import torch
from torch import Tensor, nn

from model.norms import LayerNorm, narrower
from model.types import PerformerParams

REZERO_START = 1e-3
"""Initial factor; unlike the paper's 0, it gives every parameter of a sub-layer a gradient from the first step."""

TOKENS_AT_ONCE = 4096
"""Tokens per part of a position-wise layer when no activations are saved for backward."""


class ScaleNorm(nn.Module):
    """Norm `g * x / |x|` with one learned scalar g, initially sqrt(d_model); x [..., d_model] keeps its shape."""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.tensor(d_model**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each vector of x [..., d_model] to the length g."""
        # float16 overflows in the sum of squares from |x| = 256 on, and in 1 / eps.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scaled: Tensor = wide * (self.scale / length.clamp(min=self.eps))
        return scaled.to(narrower(x, self.scale))


def make_norm(params: PerformerParams) -> nn.Module:
    """Build the norm over [..., d_model] that `params` selects; with ReZero the identity."""
    if params.use_rezero:
        return nn.Identity()
    return ScaleNorm(params.d_model) if params.use_scalenorm else LayerNorm(params.d_model)


class Residual(nn.Module):
    """Residual `x + f(norm(x))`, or with ReZero `x + g * f(x)` and a learned scalar g; x is [..., d_model].

    If no activations are saved for backward, a position-wise sub-layer (with `is_positionwise`) processes a long
    sequence in parts, so that its inner activations are never in memory for all tokens.
    """

    def __init__(self, sublayer: nn.Module, params: PerformerParams) -> None:
        super().__init__()
        self.norm = make_norm(params)
        self.sublayer = sublayer
        self.rezero = nn.Parameter(torch.tensor(REZERO_START)) if params.use_rezero else None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Add the sub-layer's output to x [..., d_model]; further arguments go to the sub-layer."""
        if not self._can_split(x):
            return self._add(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])  # [tokens, d_model]
        out = torch.empty_like(rows)
        for part, target in zip(*(torch.split(y, TOKENS_AT_ONCE) for y in (rows, out)), strict=True):
            target.copy_(self._add(part))
        return out.view(x.shape)

    def _add(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        update: Tensor = self.sublayer(self.norm(x), *args, **kwargs)
        return x + (update if self.rezero is None else self.rezero * update)

    def _can_split(self, x: Tensor) -> bool:
        is_kept = torch.is_grad_enabled() or torch.compiler.is_compiling()  # the compiler plans its own buffers
        is_alone = getattr(self.sublayer, "is_positionwise", False)
        return is_alone and not is_kept and x.numel() > 2 * TOKENS_AT_ONCE * x.shape[-1]
