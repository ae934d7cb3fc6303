"""Poolers: from the hidden states of a text to one vector."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Pooling = Literal["first", "mean", "context"]


class Pooler(nn.Module):
    """`first` token, masked `mean`, or DeBERTa's `context`; then a linear layer and an activation.

    `first` and `mean` end in tanh, as BERT's pooler does (Devlin et al. 2019); `context` is the first token after dropout,
    with GELU at the end (He et al. 2021, arXiv 2006.03654). `dense` is a layer [width, width] to go on with, such as that
    of a pretrained pooler. Raises ValueError for another kind.
    """

    def __init__(self, kind: Pooling, width: int, *, dense: nn.Linear | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if kind not in get_args(Pooling):
            raise ValueError(f"pooling {kind!r} is unknown; {', '.join(get_args(Pooling))} fit")
        self.kind = kind
        self.dense = nn.Linear(width, width) if dense is None else dense
        self.dropout = nn.Dropout(dropout if kind == "context" else 0.0)
        self.activation: nn.Module = nn.GELU() if kind == "context" else nn.Tanh()

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, width] after and before the linear layer, of hidden [B, N, width] and mask bool [B, N]."""
        unpooled = masked_mean(hidden, mask) if self.kind == "mean" else hidden[:, 0]
        pooled: Tensor = self.activation(self.dense(self.dropout(unpooled)))
        return pooled, unpooled


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, width] of hidden [B, N, width] over the places where mask bool [B, N] is True, summed in float32."""
    weights = mask.unsqueeze(-1)
    total = hidden.masked_fill(~weights, 0.0).sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return (total / weights.sum(1).clamp_min(1)).to(hidden.dtype)
