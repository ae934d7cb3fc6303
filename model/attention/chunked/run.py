"""Forward and backward of linear attention, block by block of batch rows."""

import torch
from torch import Tensor

from model.attention.chunked import bidirectional, causal, causal_backward
from model.attention.chunked.block import Block
from model.attention.chunked.gradients import Gradients, Results
from model.attention.chunked.inputs import Inputs
from model.attention.chunked.plan import Plan, count_groups, make_plan, workspace
from model.attention.chunked.state import Borders, Sums, empty_borders

UNDERFLOW = 1e-30
"""Denominators below it lose digits in float32, whose smallest normal number is 1e-38: float64 is used for them."""


def forward(inputs: Inputs, *, is_causal: bool, keep: bool) -> tuple[Tensor, Tensor, Borders]:
    """Return out [B, H, N, E], denominators [B, H, N] and, with `keep`, the states that backward starts from.

    A row whose denominator underflows in float32 is taken from a second run in float64. The choice depends on each row
    alone, so no later token affects it.
    """
    out, denominators = allocate_outputs(inputs)
    kept = allocate_borders(inputs, is_causal=is_causal, keep=keep)
    _fill(inputs, is_causal, out, denominators, kept if keep else None)
    if _has_underflow(denominators):
        precise = torch.empty_like(out)
        _fill(inputs, is_causal, precise, denominators.double(), None)
        out.copy_(torch.where((denominators < UNDERFLOW).unsqueeze(-1), precise, out))
    return out, denominators, kept


def backward(
    inputs: Inputs, gradient: Tensor, out: Tensor, denominators: Tensor, kept: Borders, *, is_causal: bool
) -> Gradients:
    """Return the gradients of q, k, v and the log scales, in their shapes, from that of out [B, H, N, E].

    They are computed in float64 if the denominators [B, H, N] underflowed, and have the dtypes of the inputs.
    """
    if _has_underflow(denominators):
        denominators, kept = denominators.double(), Borders(*(x.double() for x in kept))
        _fill(inputs, is_causal, torch.empty_like(out), denominators, kept)
    results, into = Results(gradient, out, denominators), allocate_gradients(inputs)
    space = workspace(denominators.dtype, out.device)
    of_queries, of_keys = _plans(inputs)
    for rows in of_queries.blocks(out.shape[0]):
        if is_causal:
            causal_backward.backward(causal.CausalBlock(inputs, rows, space), of_queries.groups, results, kept, into)
        else:
            block = Block(inputs, rows, space)
            adjoint = bidirectional.queries_backward(block, of_queries.groups, kept.load(0, rows), results, into)
            bidirectional.keys_backward(block, of_keys.groups, adjoint, into)
    return into


def allocate_outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Allocate out [B, H, N, E] in v's dtype and the denominators [B, H, N] in float32 at least."""
    q, v = inputs.q, inputs.v
    batch, heads, tokens = q.shape[:3]
    # The heads of a token are adjacent, so that joining them later needs no copy.
    out = v.new_empty((batch, tokens, heads, v.shape[-1])).transpose(1, 2)
    return out, q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def allocate_borders(inputs: Inputs, *, is_causal: bool, keep: bool) -> Borders:
    """Allocate the states at the start of each group, or in the bidirectional form the one after all keys."""
    q = inputs.q
    count = count_groups(q.shape, q.device.type) if is_causal else 1
    dtype = torch.promote_types(q.dtype, torch.float32)
    return empty_borders(q, count if keep else 0, inputs.nb_features, inputs.v.shape[-1], dtype)


def allocate_gradients(inputs: Inputs) -> Gradients:
    """Allocate the gradients with the layout of the inputs."""
    of_q, of_k, of_v = (torch.empty_like(x) for x in (inputs.q, inputs.k, inputs.v))
    return Gradients(of_q, of_k, of_v, inputs.k.new_empty(inputs.k.shape[:-1]))


def _plans(inputs: Inputs) -> tuple[Plan, Plan]:
    """Return the plans of queries and keys, over the same blocks of batch rows."""
    of_queries, of_keys = (make_plan(x.shape, x.device.type) for x in (inputs.q, inputs.k))
    return of_queries, of_keys


def _fill(inputs: Inputs, is_causal: bool, out: Tensor, denominators: Tensor, kept: Borders | None) -> None:
    """Compute everything in the dtype of `denominators`."""
    (of_queries, of_keys), space = _plans(inputs), workspace(denominators.dtype, out.device)
    for rows in of_queries.blocks(out.shape[0]):
        if is_causal:
            causal.forward(causal.CausalBlock(inputs, rows, space), of_queries.groups, out, denominators, kept)
            continue
        block = Block(inputs, rows, space)
        sums: Sums = bidirectional.sum_keys(block, of_keys.groups)
        if kept is not None:
            kept.save(0, rows, sums)
        bidirectional.attend(block, of_queries.groups, sums, out, denominators)


def _has_underflow(denominators: Tensor) -> bool:
    """Return True if float32 underflowed and the device has float64."""
    is_narrow = denominators.dtype == torch.float32 and denominators.device.type != "mps"
    return is_narrow and bool((denominators < UNDERFLOW).any())
