"""Rotary positions (RoFormer, Su et al. 2021, arXiv 2104.09864): queries and keys rotated by position.

Learned absolute positions are in `model.transformer.inputs`.
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [N, head_dim / 2], or [B, 1, N, head_dim / 2] if positions differ by row."""


def rotary_angles(
    length: int, head_dim: int, device: torch.device, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Rotation:
    """Return the rotation of the positions 0..length-1; `dtype` is as in `rotation_at`."""
    return rotation_at(torch.arange(length, device=device), head_dim, base=base, dtype=dtype)


def rotation_at(
    positions: Tensor, head_dim: int, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Rotation:
    """Return the rotation of positions int64 [..., N]: cosines and sines [..., N, head_dim / 2].

    They are float32 in a model of any dtype, unless `dtype` is float64: bfloat16 cannot count past 256.
    """
    frequency = base ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=dtype) / head_dim)
    angle = positions.to(dtype).unsqueeze(-1) * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x [B, H, N, D] by the angles of their position."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # each [..., N, D/2]
    rotated = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(rotated, dim=-1).to(x.dtype)
