"""Base classes of the feature maps of linear attention: phi with phi(q) . phi(k) in place of exp(q . k / sqrt(D)).

A custom map defines `query` and `key`; the built-in random ones define a `Kernel`, from which the chunked form
computes features one chunk at a time, so that those of all tokens are never in memory at once. The scale of a query
cancels between numerator and denominator. Each key has its own log scale: if keys were stabilised by the maximum over
all keys, a later key would change a causal output. `model.feature_registry` registers a map under a name.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.chunked.features import RELU_FLOOR, Kernel, expand_heads


class FeatureMap(nn.Module, ABC):
    """Positive features of queries and keys, whose products are the weights of linear attention.

    Linear attention calls `query` and `key` in float32 or float64 while it sees whole sequences, `log_query` and
    `log_key` while decoding, and `observe` after each step of training; `nb_features` is the number m of features.
    `num_heads` counts key-value heads, for maps with parameters or statistics for each of them.
    """

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__()
        self.head_dim, self.nb_features, self.num_heads = head_dim, nb_features, num_heads

    @abstractmethod
    def query(self, q: Tensor) -> Tensor:
        """Return features [B, H, N, m] of queries [B, H, N, D]; each row may be scaled by any positive factor."""

    @abstractmethod
    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, H, M, m] of keys [B, H, M, D] and log scales c [B, H, M]: phi(k) = exp(c) * features.

        A map without scales returns zeros for c.
        """

    def log_query(self, q: Tensor) -> Tensor:
        """Return log phi(q) [B, H, N, m] of queries [B, H, N, D]; each row may have any constant added."""
        return self.query(q).log()

    def log_key(self, k: Tensor) -> Tensor:
        """Return log phi(k) [B, H, M, m] of keys [B, H, M, D]."""
        features, log_scale = self.key(k)
        return features.log() + log_scale.unsqueeze(-1)

    def kernel(self) -> Kernel | None:
        """Return the map as a kernel that the chunked form computes by itself, or None to use `query` and `key`."""
        return None

    @torch.no_grad()
    def observe(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> None:
        """Update statistics from q [B, H, N, D] and k [B, H, M, D] of a training step, after their attention."""


class RandomFeatures(FeatureMap):
    """Map over random projections, the buffer `projection_matrix` [m, D] with rows that are orthogonal in blocks.

    The buffer is zero until `FeatureRedraw` draws the projections of all layers of a stack together.
    """

    projection_matrix: Tensor
    in_pairs: ClassVar[bool] = False
    """Draw the rows in pairs w and -w."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, nb_features, num_heads)
        self.register_buffer("projection_matrix", torch.zeros(nb_features, head_dim))

    @abstractmethod
    def kernel(self) -> Kernel:
        """Return the kernel in new tensors: a later redraw is in place and must not change the graph of backward."""

    def query(self, q: Tensor) -> Tensor:
        """Return the features of queries, at most 1."""
        logits = self.log_query(q)
        return (logits - logits.detach().amax(-1, keepdim=True)).exp()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of keys, at most 1, and their log scale; it cancels, so it needs no gradient."""
        logits = self.log_key(k)
        peak = logits.detach().amax(-1, keepdim=True)
        return (logits - peak).exp(), peak.squeeze(-1)

    def log_query(self, q: Tensor) -> Tensor:
        """Return log phi(q) [B, H, N, m]; |q|^2 cancels."""
        kernel = self.kernel()
        return self._logits(q, kernel, kernel.q_weight)

    def log_key(self, k: Tensor) -> Tensor:
        """Return log phi(k) [B, H, M, m]."""
        kernel = self.kernel()
        logits = self._logits(k, kernel, kernel.k_weight)
        if kernel.square is None:
            return logits
        square = expand_heads(kernel.square, k.shape[1]).unsqueeze(-2)  # [1 or H, 1, D]
        return logits - (k.square() * square.to(k.dtype)).sum(-1, keepdim=True)

    def _logits(self, x: Tensor, kernel: Kernel, weight: Tensor | None) -> Tensor:
        assert weight is not None
        projected: Tensor = x @ expand_heads(weight, x.shape[1]).mT.to(x.dtype)  # [B, H, N, m]
        if kernel.kind == "relu":
            return (projected.relu() + RELU_FLOOR).log()
        bias = kernel.bias
        return projected if bias is None else projected + expand_heads(bias, x.shape[1]).unsqueeze(-2)

    def scaled_projections(self) -> Tensor:
        """Return the projections times D^(-1/4), the root of softmax's scale, for every head: [1, m, D]."""
        wide = self.projection_matrix.to(torch.promote_types(self.projection_matrix.dtype, torch.float32))
        scaled: Tensor = wide * self.head_dim**-0.25
        return scaled.unsqueeze(0)
