"""Rotary positions (RoFormer, Su et al. 2021, arXiv 2104.09864): queries and keys turned by their place's angle.

Learned absolute positions are a table beside the token embedding, in `model.inputs`.
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [N, head_dim / 2]."""


def rotary_angles(length: int, head_dim: int, device: torch.device, *, base: float = 10_000.0) -> Rotation:
    """Rotation of the positions 0..length-1, in float32 whatever the model's dtype: bfloat16 cannot count past 256."""
    frequency = base ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of x [..., N, D] by the angles of their position; lengths are kept."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # each [..., N, D/2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
