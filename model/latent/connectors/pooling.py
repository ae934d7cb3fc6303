"""Poolers: map the hidden states of a text to one vector."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.latent.registry import LATENT_POOLERS, resolve_part


class PretrainedPooler(NamedTuple):
    """Layers of a pretrained backbone's own pooler: its linear layer [width, width], if it has one, and its dropout."""

    dense: nn.Linear | None = None
    dropout: float = 0.0


class Pooler(nn.Module):
    """Reduction of hidden states to a vector, dropout, a linear layer and an activation.

    BERT's pooler ends in tanh (Devlin et al. 2019), DeBERTa's in GELU (He et al. 2021, arXiv 2006.03654).

    Arguments:
        reduce: maps hidden [B, N, width] and mask bool [B, N] to [B, width], such as `first_token` or `masked_mean`.
        width: width of the hidden states.
        pretrained: layers to start from.
        activation: by default tanh.
    """

    def __init__(
        self,
        reduce: Callable[[Tensor, Tensor], Tensor],
        width: int,
        pretrained: PretrainedPooler | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.reduce = reduce
        dense, dropout = pretrained or PretrainedPooler()
        self.dense = nn.Linear(width, width) if dense is None else dense
        self.dropout = nn.Dropout(dropout)
        self.activation = nn.Tanh() if activation is None else activation

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [B, width] after and before the linear layer, of hidden [B, N, width], mask bool [B, N]."""
        unpooled = self.reduce(hidden, mask)
        pooled: Tensor = self.activation(self.dense(self.dropout(unpooled)))
        return pooled, unpooled


def make_pooler(pooling: Any, width: int, pretrained: PretrainedPooler | None = None) -> nn.Module:
    """Build the pooler with a registered name, or of its section; raise UnknownNameError."""
    entry, section = resolve_part(LATENT_POOLERS, pooling)
    pooler: nn.Module = entry.build(section, width, pretrained or PretrainedPooler())
    return pooler


def first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the first hidden state [B, width] of hidden [B, N, width]; the mask bool [B, N] is ignored."""
    return hidden[:, 0]


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [B, width] of hidden [B, N, width] where mask bool [B, N] is True, summed in float32."""
    weights = mask.unsqueeze(-1)
    total = hidden.masked_fill(~weights, 0.0).sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return (total / weights.sum(1).clamp_min(1)).to(hidden.dtype)
