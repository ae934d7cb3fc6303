"""What a feature map of linear attention gives: phi with phi(q) . phi(k) in the place of exp(q . k / sqrt(D)).

A map of your own gives `query` and `key`; the toolkit's random ones give a `Kernel`, from which the chunked form
computes the features a chunk at a time and never holds those of all tokens. A scale of a query cancels between
numerator and denominator. A key keeps a log scale of its own: no key is stabilised by another one's maximum, which is
how causal attention keeps from seeing the future.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.chunked.features import RELU_FLOOR, Kernel, of_heads


class FeatureMap(nn.Module, ABC):
    """Positive features of queries and keys; every subclass takes `(head_dim, nb_features, num_heads)`.

    `num_heads` counts key-value heads, for maps that keep something for each of them.
    """

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__()
        self.head_dim, self.nb_features, self.num_heads = head_dim, nb_features, num_heads

    @abstractmethod
    def query(self, q: Tensor) -> Tensor:
        """Features [B, H, N, m] of queries [B, H, N, D], each row up to a positive factor of its own."""

    @abstractmethod
    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, H, M, m] of keys [B, H, M, D] and their log scale c [B, H, M]: phi(k) = exp(c) * features."""

    def log_query(self, q: Tensor) -> Tensor:
        """log phi(q) [B, H, N, m] of queries [B, H, N, D], each row up to a constant of its own."""
        return self.query(q).log()

    def log_key(self, k: Tensor) -> Tensor:
        """log phi(k) [B, H, M, m] of keys [B, H, M, D]."""
        features, log_scale = self.key(k)
        return features.log() + log_scale.unsqueeze(-1)

    def kernel(self) -> Kernel | None:
        """The map in a form that the chunked form can compute by itself; None where it is not of one."""
        return None

    @torch.no_grad()
    def observe(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> None:
        """Look at queries [B, H, N, D] and keys [B, H, M, D] of a training step, after their attention."""


class RandomFeatures(FeatureMap):
    """A map over random projections, rows orthogonal in blocks, in the buffer `projection_matrix` [m, D].

    The buffer is left unset here: `FeatureRedraw` draws those of all layers of a stack together.
    """

    projection_matrix: Tensor
    in_pairs: ClassVar[bool] = False
    """Draw rows w together with -w."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, nb_features, num_heads)
        self.register_buffer("projection_matrix", torch.zeros(nb_features, head_dim))

    @abstractmethod
    def kernel(self) -> Kernel:
        """The map's kernel in new tensors: a later redraw is in place and must not spoil this graph's backward."""

    def query(self, q: Tensor) -> Tensor:
        """Features of queries, at most 1."""
        logits = self.log_query(q)
        return (logits - logits.detach().amax(-1, keepdim=True)).exp()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features of keys, at most 1, and their log scale; it is in both parts, so it needs no gradient."""
        logits = self.log_key(k)
        peak = logits.detach().amax(-1, keepdim=True)
        return (logits - peak).exp(), peak.squeeze(-1)

    def log_query(self, q: Tensor) -> Tensor:
        """log phi(q) [B, H, N, m]; |q|^2 cancels."""
        kernel = self.kernel()
        return self._logits(q, kernel, kernel.q_weight)

    def log_key(self, k: Tensor) -> Tensor:
        """log phi(k) [B, H, M, m]."""
        kernel = self.kernel()
        logits = self._logits(k, kernel, kernel.k_weight)
        if kernel.square is None:
            return logits
        square = of_heads(kernel.square, k.shape[1]).unsqueeze(-2)  # [1 or H, 1, D]
        return logits - (k.square() * square.to(k.dtype)).sum(-1, keepdim=True)

    def _logits(self, x: Tensor, kernel: Kernel, weight: Tensor | None) -> Tensor:
        assert weight is not None
        projected: Tensor = x @ of_heads(weight, x.shape[1]).mT.to(x.dtype)  # [B, H, N, m]
        if kernel.kind == "relu":
            return (projected.relu() + RELU_FLOOR).log()
        bias = kernel.bias
        return projected if bias is None else projected + of_heads(bias, x.shape[1]).unsqueeze(-2)

    def scaled_projections(self) -> Tensor:
        """Projections of q / D^(1/4), the root of softmax's scale, for every head: [1, m, D]."""
        wide = self.projection_matrix.to(torch.promote_types(self.projection_matrix.dtype, torch.float32))
        scaled: Tensor = wide * self.head_dim**-0.25
        return scaled.unsqueeze(0)
