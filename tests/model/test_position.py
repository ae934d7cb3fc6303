"""Rotary positions: inner products depend on the distance alone."""

import torch

from model.attention.rotary import rotary_angles, rotate

CPU = torch.device("cpu")


def test_rotary_products_depend_only_on_distance():
    q, k = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(2, 40, 8)
    rotation = rotary_angles(40, 8, CPU)
    products = rotate(q, rotation) @ rotate(k, rotation).T  # [40, 40]
    for distance in (0, 3, 20):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-5)
    assert not torch.allclose(products[0, 0], products[0, 3], atol=1e-2)
    assert torch.allclose(rotate(q, rotation).norm(dim=-1), q.norm(dim=-1))


def test_rotary_first_position_and_dtype():
    x = torch.randn(2, 3, 5, 8).bfloat16()
    turned = rotate(x, rotary_angles(5, 8, CPU))
    assert turned.dtype == x.dtype
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
