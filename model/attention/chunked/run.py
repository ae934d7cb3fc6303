"""Forward and backward of linear attention, block by block of batch rows.

On a CPU, rows whose denominator underflows in float32 are computed in float64. Other devices never wait for such a
check: the bidirectional form has a peak for each feature and no small denominators; causal rows below `UNDERFLOW` keep
what float32 holds of them, and their gradients are damped.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.attention.chunked import bidirectional, causal, causal_backward, feature_peaks
from model.attention.chunked.block import UNDERFLOW, Block
from model.attention.chunked.gradients import Gradients, Results
from model.attention.chunked.inputs import Inputs, pad_tokens
from model.attention.chunked.plan import CHUNK, Plan, count_groups, make_plan, workspace
from model.attention.chunked.state import Borders, Sums, empty_borders


def forward(inputs: Inputs, *, is_causal: bool, keep: bool) -> tuple[Tensor, Tensor, Borders]:
    """Return out [B, H, N, E], denominators [B, H, N] and, with `keep`, the states that backward starts from.

    On a CPU, a row whose denominator underflows in float32 is taken from a second run in float64. The choice depends
    on each row alone, so no later token affects it.
    """
    out, denominators = allocate_outputs(inputs)
    kept = allocate_borders(inputs, is_causal=is_causal, keep=keep)
    borders = kept if keep else None
    if missing := _missing_tokens(inputs, is_causal=is_causal):
        longer = inputs.padded(missing)
        outputs = allocate_outputs(longer)
        _fill(longer, is_causal, *outputs, borders)
        for target, source in zip((out, denominators), outputs, strict=True):
            target.copy_(source[:, :, :-missing])
        return out, denominators, kept
    _fill(inputs, is_causal, out, denominators, borders)
    if _has_underflow(denominators):
        precise = torch.empty_like(out)
        _fill(inputs, is_causal, precise, denominators.double(), None)
        out.copy_(torch.where((denominators < UNDERFLOW).unsqueeze(-1), precise, out))
    return out, denominators, kept


def backward(
    inputs: Inputs, gradient: Tensor, out: Tensor, denominators: Tensor, kept: Borders, *, is_causal: bool
) -> Gradients:
    """Return the gradients of q, k, v and the log scales, in their shapes, from that of out [B, H, N, E].

    On a CPU they are computed in float64 if the denominators [B, H, N] underflowed. They have the dtypes of the inputs.
    """
    into = allocate_gradients(inputs)
    if missing := _missing_tokens(inputs, is_causal=is_causal):
        longer = inputs.padded(missing)
        of_longer = allocate_gradients(longer)
        results = Results(
            pad_tokens(gradient, missing), pad_tokens(out, missing), pad(denominators, (0, missing), value=1.0)
        )
        _fill_gradients(longer, is_causal, results, kept, of_longer)
        for target, source in zip(into, of_longer, strict=True):
            target.copy_(source[:, :, :-missing])
        return into
    if _has_underflow(denominators):
        denominators, kept = denominators.double(), Borders(*(x.double() for x in kept))
        _fill(inputs, is_causal, torch.empty_like(out), denominators, kept)
    _fill_gradients(inputs, is_causal, Results(gradient, out, denominators), kept, into)
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
    q, nb_features = inputs.q, inputs.nb_features
    (batch, heads, tokens), on_cpu = q.shape[:3], q.device.type == "cpu"
    whole = tokens if on_cpu else (tokens + CHUNK - 1) // CHUNK * CHUNK  # with `_missing_tokens`
    count = count_groups((batch, heads, whole), inputs.at_once) if is_causal else 1
    dtype = torch.promote_types(q.dtype, torch.float32)
    peaks = (nb_features,) if feature_peaks.has_feature_peaks(inputs, is_causal=is_causal) else ()
    return empty_borders(q, count if keep else 0, nb_features, inputs.v.shape[-1], dtype, peaks)


def allocate_gradients(inputs: Inputs) -> Gradients:
    """Allocate the gradients with the layout of the inputs."""
    of_q, of_k, of_v = (torch.empty_like(x) for x in (inputs.q, inputs.k, inputs.v))
    return Gradients(of_q, of_k, of_v, inputs.k.new_empty(inputs.k.shape[:-1]))


def _missing_tokens(inputs: Inputs, *, is_causal: bool) -> int:
    """Return the tokens to pad, so that all chunks of a causal call have one size: a shorter one doubles the launches."""
    tokens = inputs.q.shape[2]
    return 0 if inputs.q.device.type == "cpu" or not is_causal or tokens <= CHUNK else -tokens % CHUNK


def _plans(inputs: Inputs, *, is_causal: bool) -> tuple[Plan, Plan]:
    """Return the plans of queries and keys, over the same blocks of batch rows."""
    has_chunks = is_causal or inputs.q.device.type == "cpu"
    of_queries, of_keys = (make_plan(x.shape, inputs.at_once, has_chunks=has_chunks) for x in (inputs.q, inputs.k))
    return of_queries, of_keys


def _fill(inputs: Inputs, is_causal: bool, out: Tensor, denominators: Tensor, kept: Borders | None) -> None:
    """Compute everything in the dtype of `denominators`."""
    (of_queries, of_keys), space = _plans(inputs, is_causal=is_causal), workspace(denominators.dtype, out.device)
    for rows in of_queries.blocks(out.shape[0]):
        if is_causal:
            causal.forward(causal.CausalBlock(inputs, rows, space), of_queries.groups, out, denominators, kept)
            continue
        block: Block
        if feature_peaks.has_feature_peaks(inputs, is_causal=is_causal):
            block = feature_peaks.PeakBlock(inputs, rows, space)
            sums = feature_peaks.sum_keys(block, of_keys.groups)
        else:
            block = Block(inputs, rows, space)
            sums = bidirectional.sum_keys(block, of_keys.groups)
        if kept is not None:
            kept.save(0, rows, sums)
        bidirectional.attend(block, of_queries.groups, sums, out, denominators)


def _fill_gradients(inputs: Inputs, is_causal: bool, results: Results, kept: Borders, into: Gradients) -> None:
    """Write the gradients into `into`, computed in the dtype of the denominators."""
    space = workspace(results.denominators.dtype, results.out.device)
    of_queries, of_keys = _plans(inputs, is_causal=is_causal)
    for rows in of_queries.blocks(results.out.shape[0]):
        if is_causal:
            causal_backward.backward(causal.CausalBlock(inputs, rows, space), of_queries.groups, results, kept, into)
            continue
        sums: Sums = kept.load(0, rows)
        if feature_peaks.has_feature_peaks(inputs, is_causal=is_causal):
            block = feature_peaks.PeakBlock(inputs, rows, space, sums.peak)
            adjoint = bidirectional.queries_backward(block, of_queries.groups, sums, results, into)
            feature_peaks.keys_backward(block, of_keys.groups, adjoint, into)
        else:
            plain = Block(inputs, rows, space)
            adjoint = bidirectional.queries_backward(plain, of_queries.groups, sums, results, into)
            bidirectional.keys_backward(plain, of_keys.groups, adjoint, into)


def _has_underflow(denominators: Tensor) -> bool:
    """Return True if float32 underflowed on a CPU; other devices are never waited for."""
    is_checked = denominators.dtype == torch.float32 and denominators.device.type == "cpu"
    return is_checked and bool((denominators < UNDERFLOW).any())
