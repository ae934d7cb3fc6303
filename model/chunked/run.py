"""A whole call of linear attention, forward or backward, block by block of its batch rows."""

import torch
from torch import Tensor

from model.chunked import bidirectional, causal, causal_backward
from model.chunked.block import Block
from model.chunked.gradients import Gradients, Results
from model.chunked.inputs import Inputs
from model.chunked.plan import Plan, count_groups, make_plan, workspace
from model.chunked.state import Borders, Sums, no_borders

UNDERFLOW = 1e-30
"""A denominator below it has lost digits in float32, whose least normal number is 1e-38: float64 is then used."""


def forward(inputs: Inputs, *, is_causal: bool, keep: bool) -> tuple[Tensor, Tensor, Borders]:
    """out [B, H, N, E], denominators [B, H, N] and, with `keep`, the states that backward starts from.

    A row whose denominator underflows in float32 is taken from a second run in float64. Which rows these are depends
    on each row alone, so that no later token has a say in it.
    """
    out, denominators = outputs(inputs)
    kept = borders(inputs, is_causal=is_causal, keep=keep)
    _fill(inputs, is_causal, out, denominators, kept if keep else None)
    if _underflows(denominators):
        precise = torch.empty_like(out)
        _fill(inputs, is_causal, precise, denominators.double(), None)
        out.copy_(torch.where((denominators < UNDERFLOW).unsqueeze(-1), precise, out))
    return out, denominators, kept


def backward(
    inputs: Inputs, gradient: Tensor, out: Tensor, denominators: Tensor, kept: Borders, *, is_causal: bool
) -> Gradients:
    """Gradients of q, k, v and the log scales, in the shapes of these, from that of out [B, H, N, E].

    Computed in float64 where forward's denominators [B, H, N] underflowed, and given in the dtypes of the inputs.
    """
    if _underflows(denominators):
        denominators, kept = denominators.double(), Borders(*(x.double() for x in kept))
        _fill(inputs, is_causal, torch.empty_like(out), denominators, kept)
    results, into = Results(gradient, out, denominators), gradients(inputs)
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


def outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Room for out [B, H, N, E], in v's dtype, and the denominators [B, H, N], in float32 at least."""
    q, v = inputs.q, inputs.v
    batch, heads, tokens = q.shape[:3]
    # A token's heads side by side: what comes next joins them, and then need not copy.
    out = v.new_empty((batch, tokens, heads, v.shape[-1])).transpose(1, 2)
    return out, q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def borders(inputs: Inputs, *, is_causal: bool, keep: bool) -> Borders:
    """Room for the states at the start of each group, or in the bidirectional form for the one after all keys."""
    q = inputs.q
    count = count_groups(q.shape, q.device.type) if is_causal else 1
    dtype = torch.promote_types(q.dtype, torch.float32)
    return no_borders(q, count if keep else 0, inputs.nb_features, inputs.v.shape[-1], dtype)


def gradients(inputs: Inputs) -> Gradients:
    """Room for the gradients, laid out like the inputs."""
    of_q, of_k, of_v = (torch.empty_like(x) for x in (inputs.q, inputs.k, inputs.v))
    return Gradients(of_q, of_k, of_v, inputs.k.new_empty(inputs.k.shape[:-1]))


def _plans(inputs: Inputs) -> tuple[Plan, Plan]:
    """Plans of queries and keys, over the same blocks of batch rows."""
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
        sums: Sums = bidirectional.absorb(block, of_keys.groups)
        if kept is not None:
            kept.save(0, rows, sums)
        bidirectional.read(block, of_queries.groups, sums, out, denominators)


def _underflows(denominators: Tensor) -> bool:
    """True where float32 was too narrow and there is something wider."""
    is_narrow = denominators.dtype == torch.float32 and denominators.device.type != "mps"
    return is_narrow and bool((denominators < UNDERFLOW).any())
