"""The network of SEDD, MDLM, BD3LM, UDLM, Duo and GIDD in float64, written from its description, on published names.

`logits` is a function of the state dict alone. Only the number of heads is not in it.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

FREQUENCIES = 128


def random_state(
    *, rows: int, width: int = 16, cond_dim: int = 6, layers: int = 2, classes: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Return a state dict of random float32 tensors; with classes, a condition embedding of classes + 2 rows."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (rows, width)}
    shapes |= _linear("sigma_map.mlp.0", cond_dim, 2 * FREQUENCIES) | _linear("sigma_map.mlp.2", cond_dim, cond_dim)
    if classes is not None:
        shapes["cond_map.embedding_table.weight"] = (classes + 2, cond_dim)
    for index in range(layers):
        at = f"blocks.{index}."
        shapes |= {f"{at}norm1.weight": (width,), f"{at}attn_qkv.weight": (3 * width, width)}
        shapes |= {f"{at}attn_out.weight": (width, width), f"{at}norm2.weight": (width,)}
        shapes |= _linear(f"{at}mlp.0", 4 * width, width) | _linear(f"{at}mlp.2", width, 4 * width)
        shapes |= _linear(f"{at}adaLN_modulation", 6 * width, cond_dim)
    shapes["output_layer.norm_final.weight"] = (width,)
    shapes |= _linear("output_layer.linear", rows, width)
    shapes |= _linear("output_layer.adaLN_modulation", 2 * width, cond_dim)
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def logits(
    state: Mapping[str, Tensor],
    heads: int,
    ids: Tensor,
    level: Tensor,
    cond: Tensor | None = None,
    attend: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Return logits [B, L, rows] in float64.

    Arguments:
        ids: int [B, L]; level: [B], the number whose sinusoids are embedded; cond: classes int [B].
        attend: bool [L, L], True where row may attend to column; positions: int [L], by default 0 to L - 1.
    """
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    angles = level.double()[:, None] * 10_000.0 ** (-torch.arange(FREQUENCIES, dtype=torch.float64) / FREQUENCIES)
    told = linear("sigma_map.mlp.2", F.silu(linear("sigma_map.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))))
    c = F.silu(told)
    if cond is not None:
        c = c + F.silu(w["cond_map.embedding_table.weight"][cond])
    x = w["vocab_embed.embedding"][ids]
    batch, length, width = x.shape
    positions = torch.arange(length) if positions is None else positions
    half = width // heads // 2
    turn = positions.double()[:, None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)

    def rotated(q: Tensor) -> Tensor:
        first, second = q[..., :half], q[..., half:]
        return torch.cat([first * turn.cos() - second * turn.sin(), second * turn.cos() + first * turn.sin()], -1)

    for index in range(sum(name.endswith("norm1.weight") for name in w)):
        at = f"blocks.{index}."
        shift, scale, gate, shift_ff, scale_ff, gate_ff = linear(f"{at}adaLN_modulation", c)[:, None].chunk(6, -1)
        qkv = linear(f"{at}attn_qkv", norm(f"{at}norm1", x) * (1 + scale) + shift)
        q, k, v = qkv.view(batch, length, 3, heads, 2 * half).permute(2, 0, 3, 1, 4)
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(2 * half)
        if attend is not None:
            scores = scores.masked_fill(~attend, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + gate * linear(f"{at}attn_out", mixed)
        hidden = F.gelu(linear(f"{at}mlp.0", norm(f"{at}norm2", x) * (1 + scale_ff) + shift_ff), approximate="tanh")
        x = x + gate_ff * linear(f"{at}mlp.2", hidden)
    shift, scale = linear("output_layer.adaLN_modulation", c)[:, None].chunk(2, -1)
    return linear("output_layer.linear", norm("output_layer.norm_final", x) * (1 + scale) + shift)
