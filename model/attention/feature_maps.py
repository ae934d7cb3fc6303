"""Feature maps of linear attention that are not fitted to the data, and the factory of all of them."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.activation_checkpointing import CallState, Repeat
from model.attention.chunked.features import RELU_FLOOR, Kernel, expand_heads
from model.feature_registry import build_feature_map
from model.types import PerformerParams, default_features

# Base classes of the feature maps of linear attention: phi with phi(q) . phi(k) in place of exp(q . k / sqrt(D)).


class FeatureMap(nn.Module, CallState):
    """Positive features of queries and keys, whose products are the weights of linear attention.

    Linear attention calls `query` and `key` in float32 or float64 while it sees whole sequences, `log_query` and
    `log_key` while decoding, and `observe` after each step of training; `nb_features` is the number m of features.
    `num_heads` counts key-value heads, for maps with parameters or statistics for each of them. A call that activation
    checkpointing repeats (`is_repeated`) reads the buffers of the first call, and observes nothing.
    """

    is_repeated = False

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

    def capture(self) -> Repeat:
        """Capture the projections and statistics, which change between a call and its repetition."""
        return partial(self._repeating, {name: buffer.clone() for name, buffer in self.named_buffers(recurse=False)})

    @contextmanager
    def _repeating(self, buffers: Mapping[str, Tensor]) -> Iterator[None]:
        own, self.is_repeated = dict(self.named_buffers(recurse=False)), True
        try:
            for name, buffer in buffers.items():
                setattr(self, name, buffer)
            yield
        finally:
            self.is_repeated = False
            for name, buffer in own.items():
                setattr(self, name, buffer)


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


__all__ = ["FeatureMap", "RandomFeatures", "make_feature_map"]


class FavorPlus(RandomFeatures):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): exp(w . x - |x|^2 / 2), unbiased for the softmax kernel."""

    def kernel(self) -> Kernel:
        """Return one matrix for queries and keys, and the factor of |k|^2."""
        weight = self.scaled_projections()
        return Kernel("exp", weight, weight, None, weight.new_full((1, self.head_dim), 0.5 / self.head_dim**0.5))


class ReluFeatures(RandomFeatures):
    """Performer-ReLU (Choromanski et al. 2021, section 4.2): relu(w . x) + 1e-3, which keeps the kernel positive."""

    def kernel(self) -> Kernel:
        """Return one matrix for queries and keys, all of scale 1."""
        weight = self.scaled_projections()
        return Kernel("relu", weight, weight)


class EluFeatures(FeatureMap):
    """elu(x) + 1 of each coordinate (Katharopoulos et al. 2020, arXiv 2006.16236): always D features."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, head_dim, num_heads)

    def query(self, q: Tensor) -> Tensor:
        """Return features [B, H, N, D]; this form of elu(x) + 1 avoids cancellation, which gives 0 below x = -16."""
        return q.clamp(max=0).exp() + q.relu()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, H, M, D] of keys, all of scale 1."""
        return self.query(k), k.new_zeros(k.shape[:-1])


def make_feature_map(params: PerformerParams) -> FeatureMap:
    """Build the map that `params.feature_map` selects; by default D ln D features, as in performer-pytorch."""
    nb_features = params.nb_features or default_features(params.head_dim)
    num_heads = params.num_kv_heads or params.num_heads
    return build_feature_map(params.feature_map, params.head_dim, nb_features, num_heads)


# Random features fitted to the statistics of queries and keys: FAVOR++ and the diagonal form of FAVOR#.


RATE = 0.05
"""Weight of the newest step in the running means."""


LEAST = 1e-6
"""Lower bound of a mean square: a coordinate that is always 0 has the features of FAVOR+."""


class FavorPlusPlus(RandomFeatures):
    """FAVOR++ (arXiv 2205.15317): one A for each head.

    The buffer `moments` [H, 4, D] holds running means over q and k: q^2, k^2, q and k. It starts at unit variance.
    """

    moments: Tensor
    in_pairs = True  # antithetic sampling: a tenth less error at no cost

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, nb_features, num_heads)
        start = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None].expand(num_heads, 4, head_dim)
        self.register_buffer("moments", start.clone())

    @torch.no_grad()
    def observe(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> None:
        """Update the running means with q [B, H, N, D] and with k [B, H, M, D] where `key_mask` [B, M] is True."""
        self.moments.lerp_(self._means(q.float(), k.float(), key_mask), RATE)

    @torch.no_grad()
    def fit(self, q: Tensor, k: Tensor, key_mask: Tensor | None = None) -> None:
        """Set the means to those of q [B, H, N, D] and k [B, H, M, D]; `key_mask` [B, M] as in `observe`."""
        self.moments.copy_(self._means(q.float(), k.float(), key_mask))

    def _means(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Compute the means of one step, in the layout of `moments`."""
        parts = [(q**2, None), (k**2, key_mask), (q, None), (k, key_mask)]
        return torch.stack([self._mean(x, mask) for x, mask in parts], 1).to(self.moments.dtype)

    def _mean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean [H, D] of x [B, heads, N, D] in each key-value head's group, where `mask` [B, N] is True."""
        grouped = x.reshape(x.shape[0], self.num_heads, -1, *x.shape[2:])  # [B, H, heads / H, N, D]
        if mask is None:
            return grouped.mean((0, 2, 3))
        weights = mask[:, None, None, :, None].to(x.dtype)
        total: Tensor = (grouped * weights).sum((0, 2, 3))
        return total / (weights.sum() * grouped.shape[2]).clamp(min=1)

    def kernel(self) -> Kernel:
        """Return the kernel for the current means."""
        stretch = self._stretch()  # [H, D]
        square_q, square_k, mean_q, mean_k = self._wide_moments()
        squares = stretch**2 * square_q + square_k / stretch**2 + 2 * mean_q * mean_k
        a = self._optimal_a(squares * self.head_dim**-0.5)
        scaled = self.scaled_projections() * (1 - 4 * a).sqrt().unsqueeze(-2)  # [H, m, D]
        bias = a @ self.projection_matrix.to(a.dtype).square().T  # [H, m]
        half_square = 0.5 / (self.head_dim**0.5 * stretch**2)
        return Kernel("exp", scaled * stretch.unsqueeze(-2), scaled / stretch.unsqueeze(-2), bias, half_square)

    def _stretch(self) -> Tensor:
        """Return the factor [H, D] that queries are multiplied by and keys divided by."""
        return torch.ones_like(self._wide_moments()[0])

    def _wide_moments(self) -> tuple[Tensor, ...]:
        """Return the means of q^2, k^2, q and k, [H, D] each, in float32 at least."""
        return self.moments.to(torch.promote_types(self.moments.dtype, torch.float32)).unbind(1)

    def _optimal_a(self, squares: Tensor) -> Tensor:
        """Return A [H, D] from E (x_j + y_j)^2 [H, D], the same for all coordinates of a head."""
        return least_variance(squares.sum(-1, keepdim=True), self.head_dim).expand_as(squares)


class FavorSharp(FavorPlusPlus):
    """Diagonal FAVOR# (SADERF, arXiv 2302.00787): an A for each coordinate, queries and keys scaled to equal size."""

    def _stretch(self) -> Tensor:
        square_q, square_k = (x.clamp(min=LEAST) for x in self._wide_moments()[:2])
        stretch: Tensor = (square_k / square_q) ** 0.25
        return stretch

    def _optimal_a(self, squares: Tensor) -> Tensor:
        return least_variance(squares, 1)


def least_variance(square: Tensor, dimensions: int) -> Tensor:
    """Return the A of minimal variance for E |x + y|^2 = `square`, in its shape: the root of a quadratic."""
    phi, b = square.clamp(min=LEAST), 2 * square.clamp(min=LEAST) + dimensions
    rho: Tensor = 2 * dimensions / (b + (b**2 + 8 * dimensions * phi).sqrt())  # in (0, 1)
    return (1 - 1 / rho) / 8
