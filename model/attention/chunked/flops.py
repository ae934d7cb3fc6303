"""FLOPs of a call, for FLOP counters: two for each multiplication in a matrix product.

Backward is counted with everything that it recomputes, and apart from it.
"""

from typing import Any

from model.attention.chunked.plan import CHUNK

Shape = tuple[int, ...]


def forward_flops(q: Shape, k: Shape, v: Shape, *rest: Any, **_: Any) -> int:
    """Count forward for shapes [B, H, N, D], [B, H, M, D], [B, H, M, E] and the operator's other arguments."""
    weight, is_causal = rest[2], rest[7]
    width, wide = v[-1], v[-1] + 1  # E, and with the denominator's column
    m, features = _features(q, weight)
    of_queries, of_keys = q[2] * (features + 2 * m * wide), k[2] * (features + 2 * m * wide)
    inside = 2 * _pairs(q[2]) * (m + width) if is_causal else 0
    return q[0] * q[1] * (of_queries + of_keys + inside)


def backward_flops(_gradient: Shape, _saved: Any, q: Shape, k: Shape, v: Shape, *rest: Any, **_: Any) -> int:
    """Count backward for the same shapes."""
    m, features = _features(q, rest[2])
    recomputed = (q[2] + k[2]) * features
    if rest[7]:  # causal
        recomputed += 2 * k[2] * m * (v[-1] + 1) + 2 * _pairs(q[2]) * m
    return needed_backward_flops(_gradient, _saved, q, k, v, *rest) + q[0] * q[1] * recomputed


def needed_backward_flops(_gradient: Shape, _saved: Any, q: Shape, k: Shape, v: Shape, *rest: Any, **_: Any) -> int:
    """Count backward for the same shapes without what it recomputes: features, states and the weights of pairs."""
    weight, is_causal = rest[2], rest[7]
    width, wide = v[-1], v[-1] + 1
    m, features = _features(q, weight)
    of_queries = q[2] * (features + 2 * m * (wide + width))
    of_keys = k[2] * (features + 4 * m * width)
    if is_causal:
        of_keys += 2 * _pairs(q[2]) * (2 * m + 2 * width)
    return q[0] * q[1] * (of_queries + of_keys)


def _features(q: Shape, weight: Shape | None) -> tuple[int, int]:
    """Return m and the FLOPs for the features of a token."""
    return (q[-1], 0) if weight is None else (weight[-2], 2 * weight[-2] * q[-1])


def _pairs(tokens: int) -> int:
    """Count the pairs of tokens inside chunks, with those above the diagonal, which are computed too."""
    whole, rest = divmod(tokens, CHUNK)
    return whole * CHUNK**2 + rest**2
