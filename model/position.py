"""Rotary positions (RoFormer, Su et al. 2021, arXiv 2104.09864): queries and keys turned by their place's angle.

Learned absolute positions are a table beside the token embedding, in `model.inputs`.
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [N, head_dim / 2], or [B, 1, N, head_dim / 2] where rows stand at places of their own."""


def rotary_angles(length: int, head_dim: int, device: torch.device, *, base: float = 10_000.0) -> Rotation:
    """Rotation of the positions 0..length-1."""
    return rotation_at(torch.arange(length, device=device), head_dim, base=base)


def rotation_at(positions: Tensor, head_dim: int, *, base: float = 10_000.0) -> Rotation:
    """Rotation of the positions int64 [..., N]: two of [..., N, head_dim / 2].

    In float32 whatever the model's dtype: bfloat16 cannot count past 256.
    """
    frequency = base ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions.to(torch.float32).unsqueeze(-1) * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of x [B, H, N, D] by the angles of their position; lengths are kept."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # each [..., N, D/2]
    turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(turned, dim=-1).to(x.dtype)
