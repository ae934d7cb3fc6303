"""Features of one chunk and their gradient, in powers of two: exp2 is several times faster than exp on a CPU.

Shapes: R rows (batch times heads), T tokens, D the head's width, m features. A kernel with a matrix for each head has
h = heads of them, else h = 1.
"""

from math import e, log2
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.chunked.plan import Workspace

LOG2_E = log2(e)
RELU_FLOOR = 1e-3
"""Keeps the kernel of Performer-ReLU positive (Choromanski et al. 2021, section 4.2)."""


class Kernel(NamedTuple):
    """Definition of phi. exp: phi(q) = exp(Wq q + b) up to a factor for each query, phi(k) = exp(Wk k + b - sum s k^2);
    relu: relu(W x) + 1e-3; identity: q and k are features already. It has no gradient."""

    kind: str
    """exp, relu or identity."""
    q_weight: Tensor | None = None
    """[h, m, D]."""
    k_weight: Tensor | None = None
    """[h, m, D]."""
    bias: Tensor | None = None
    """b [h, m]."""
    square: Tensor | None = None
    """s [h, D]."""

    def nb_features(self, width: int) -> int:
        """Return the number m of features for queries of this width."""
        return width if self.q_weight is None else self.q_weight.shape[-2]


def expand_heads(part: Tensor, heads: int) -> Tensor:
    """Repeat a part of a kernel [h, ...] for `heads` heads, a multiple of h: [heads, ...], unchanged if h = 1."""
    return part if part.shape[0] in (1, heads) else part.repeat_interleave(heads // part.shape[0], 0)


class ChunkFeatures:
    """phi for blocks of `batch` times `heads` rows, computed in the dtype of `space`."""

    def __init__(self, kernel: Kernel, batch: int, heads: int, space: Workspace) -> None:
        self.kind, self.space = kernel.kind, space
        self._batch, self._heads = batch, heads
        scale = LOG2_E if kernel.kind == "exp" else 1.0
        self.q_weight, self.k_weight = self._rows(kernel.q_weight), self._rows(kernel.k_weight)
        self._q_matrix = None if self.q_weight is None else scale * self.q_weight.mT
        self._k_matrix = None if self.k_weight is None else scale * self.k_weight.mT
        bias, self.square = self._rows(kernel.bias), self._rows(kernel.square)
        self._bias = None if bias is None else scale * bias.unsqueeze(-2)  # [h or R, 1, m]

    def _rows(self, part: Tensor | None) -> Tensor | None:
        """Return [1, ...] unchanged, and repeat [h, ...] for every head of every batch row: [R, ...]."""
        if part is None:
            return None
        part = expand_heads(part.to(self.space.dtype), self._heads)
        return part if part.shape[0] == 1 else part.repeat(self._batch, *[1] * (part.dim() - 1))

    def queries(self, q: Tensor) -> Tensor:
        """Return phi(q) [R, T, m] of q [R, T, D], each row up to a factor."""
        return self._features(q, self._q_matrix, "phi_q")[0]

    def keys(self, k: Tensor, log_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return phi [R, T, m] of k [R, T, D] and its scale [R, T] in log2, to which `log_scale` is added."""
        features, peak = self._features(k, self._k_matrix, "phi_k")
        scale = k.new_zeros(k.shape[:-1]) if peak is None else peak
        if self.square is not None:
            squares = torch.mul(k, k, out=self.space("squares", *k.shape))
            scale = scale - LOG2_E * self._product(squares, self.square.unsqueeze(-1), "norms").squeeze(-1)
        return features, scale if log_scale is None else scale + log_scale

    def query_exponents(self, q: Tensor) -> Tensor:
        """Return log2 phi(q) [R, T, m] of q [R, T, D] for `exp`, each row up to a constant."""
        return self._exponents(q, self._q_matrix, "phi_q")

    def key_exponents(self, k: Tensor, log_scale: Tensor | None) -> Tensor:
        """Return log2 phi(k) [R, T, m] of k [R, T, D] for `exp`, with `log_scale` [R, T] added."""
        exponents, scale = self._exponents(k, self._k_matrix, "phi_k"), log_scale
        if self.square is not None:
            squares = torch.mul(k, k, out=self.space("squares", *k.shape))
            norms = LOG2_E * self._product(squares, self.square.unsqueeze(-1), "norms").squeeze(-1)
            scale = -norms if scale is None else scale - norms
        return exponents if scale is None else exponents.add_(scale.unsqueeze(-1))

    def _exponents(self, x: Tensor, matrix: Tensor | None, name: str) -> Tensor:
        assert matrix is not None
        exponents = self._product(x, matrix, name)
        return exponents if self._bias is None else exponents.add_(self._bias)

    def _features(self, x: Tensor, matrix: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
        if matrix is None:
            return x, None
        features = self._product(x, matrix, name)
        if self.kind == "relu":
            return features.relu_().add_(RELU_FLOOR), None
        if self._bias is not None:
            features += self._bias
        peak = features.amax(-1, keepdim=True)
        return features.sub_(peak).exp2_(), peak.squeeze(-1)

    def _product(self, x: Tensor, matrix: Tensor, name: str) -> Tensor:
        """Multiply x [R, T, a] by a matrix [1 or R, a, b]."""
        out = self.space(name, *x.shape[:2], matrix.shape[-1])
        return torch.bmm(x, matrix.expand(x.shape[0], -1, -1), out=out)

    def queries_backward(self, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient [R, T, D] of q from that of phi(q); overwrite `gradient`."""
        return self._backward(features, gradient, self.q_weight, "grad_q")

    def keys_backward(self, k: Tensor, features: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of k [R, T, D] and its log scale [R, T] from that of phi(k); overwrite `gradient`."""
        if self.kind == "identity":
            return gradient, (features * gradient).sum(-1)
        of_all = None if self.kind == "exp" else (features * gradient).sum(-1)  # with those at the floor of relu
        grad_k = self._backward(features, gradient, self.k_weight, "grad_k")
        of_scale = gradient.sum(-1) if of_all is None else of_all  # the gradient is now multiplied by the features
        if self.square is not None:
            slope = torch.mul(k, self.square.unsqueeze(-2), out=self.space("squares", *k.shape))
            grad_k.addcmul_(slope, of_scale.unsqueeze(-1), value=-2)
        return grad_k, of_scale

    def _backward(self, features: Tensor, gradient: Tensor, weight: Tensor | None, name: str) -> Tensor:
        if weight is None:
            return gradient
        # A factor of a query row cancels in the output, so the maximum that was subtracted has no gradient.
        gradient.mul_(features if self.kind == "exp" else features > RELU_FLOOR)
        return self._product(gradient, weight, name)
