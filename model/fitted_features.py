"""Random features fitted to the statistics of queries and keys: FAVOR++ and the diagonal form of FAVOR#.

Both estimate the softmax kernel with features exp(sum_j A_j w_j^2 + sqrt(1 - 4 A_j) w_j x_j - |x|^2 / 2), unbiased for
every A_j < 1/8; the A of minimal variance follows from phi = E (x_j + y_j)^2 over queries x and keys y (Likhosherstov
et al. 2022, arXiv 2205.15317, and 2023, arXiv 2302.00787). The papers take these means from the current batch, which
leaks the future and the padding. Here they are buffers that training updates after each step, as batch norm does, and that
evaluation does not change.
"""

import torch
from torch import Tensor

from model.chunked.features import Kernel
from model.feature_base import RandomFeatures

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
