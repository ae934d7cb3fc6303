"""Linear attention in plain operations, for graphs that leave our package: the same sums without its operator."""

from typing import Any

import torch
from torch import Tensor

from model.attention.chunked import run
from model.attention.chunked.features import RELU_FLOOR, Kernel, expand_heads
from model.attention.chunked.inputs import NO_KEY_YET, Inputs


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    log_scale: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    bias: Tensor | None,
    square: Tensor | None,
    kind: str,
    is_causal: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Compute the outputs of the operator `model_factory::linear_attention`, with its arguments: q [B, H, N, D], k [B, H, M, D].

    The bidirectional form is linear in the length; the causal one weighs all pairs of positions. Features are divided by
    their maximum for each query and each key, and the scales of keys by the largest that a query sees. Computed in
    float32 at least.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    kernel = Kernel(kind, q_weight, k_weight, bias, square)
    queries, _ = _features(q.to(wide), kernel, q_weight)  # [B, H, N, m]
    keys, scale = _features(k.to(wide), kernel, k_weight)  # [B, H, M, m], [B, H, M]
    if square is not None:
        weights = expand_heads(square, k.shape[1]).to(wide)[:, None]  # [1 or H, 1, D]
        scale = scale - (k.to(wide).square() * weights).sum(-1)
    if log_scale is not None:
        scale = scale + log_scale.to(wide)
    if key_mask is not None:
        scale = scale.masked_fill(~key_mask[:, None], NO_KEY_YET)
    values = v.to(wide)
    attend = _attend_causally if is_causal else _attend_to_all
    sums, denominators = attend(queries, keys, scale, values)
    empty = denominators <= 0  # rows without a key
    out = (sums / denominators.masked_fill(empty, 1.0)[..., None]).masked_fill(empty[..., None], 0.0)
    out = out.to(v.dtype).transpose(1, 2).contiguous().transpose(1, 2)  # the layout of the operator
    inputs = Inputs(q, k, v, key_mask, log_scale, kernel)
    return out, denominators, *run.allocate_borders(inputs, is_causal=is_causal, keep=keep)


def _features(x: Tensor, kernel: Kernel, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return phi(x) [B, H, N, m], at most 1 for `exp`, and the log [B, H, N] of what it was divided by."""
    nothing = torch.zeros_like(x[..., 0])
    if weight is None:
        return x, nothing
    logits = x @ expand_heads(weight, x.shape[1]).to(x.dtype).mT
    if kernel.kind == "relu":
        return logits.relu() + RELU_FLOOR, nothing
    if kernel.bias is not None:
        logits = logits + expand_heads(kernel.bias, x.shape[1]).to(x.dtype)[:, None]
    peak = logits.amax(-1, keepdim=True)
    return (logits - peak).exp(), peak[..., 0]


def _attend_to_all(queries: Tensor, keys: Tensor, scale: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sums of values [B, H, N, E] and the denominators [B, H, N] over all keys."""
    write = _relative(scale, scale.amax(-1, keepdim=True))  # [B, H, M]
    weighted = keys * write[..., None]
    return queries @ (weighted.mT @ values), (queries @ weighted.sum(-2)[..., None])[..., 0]


def _attend_causally(queries: Tensor, keys: Tensor, scale: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sums and denominators over the keys up to each query, by the matrix of all pairs."""
    positions = torch.arange(keys.shape[2], device=keys.device)
    visible = positions[None] <= positions[:, None]  # [N, N]
    seen = torch.where(visible, scale[:, :, None], NO_KEY_YET)  # [B, H, N, N]
    weights = (queries @ keys.mT) * _relative(seen, seen.amax(-1, keepdim=True))
    return weights @ values, weights.sum(-1)


def _relative(scale: Tensor, peak: Tensor) -> Tensor:
    """Return exp(scale - peak), 0 where there is no key."""
    return (scale - peak).exp() * (scale > NO_KEY_YET / 2).to(scale.dtype)


TABLE: dict[Any, Any] = {torch.ops.model_factory.linear_attention.default: plain_attention}
"""Decompositions for `ExportedProgram.run_decompositions`."""
