"""Gradient of `model.attention.chunked.causal`, group by group from the last to the first.

With g the gradient of out, g'_i = g_i / den_i and e_i = -(g_i . out_i) / den_i, R and r the gradients of S and z, and
P_ij = w_ij (g'_i . v_j + e_i):
    d phi'_q_i = sum_j P_ij phi'_k_j + rho_i (S_b g'_i + z_b e_i)
    d phi'_k_j = sum_i P_ij phi'_q_i + 2^(c_j - M_(b+1)) (R_(b+1) v_j + r_(b+1))
    d v_j      = sum_i A_ij g'_i     + 2^(c_j - M_(b+1)) R_(b+1)^T phi'_k_j
    [R, r]_b   = 2^(M_b - M_(b+1)) [R, r]_(b+1) + sum_i rho_i phi'_q_i [g'_i, e_i]
The states of a group are recomputed from the one at its start: subtracting from the last one would lose half of the
digits of float32.
"""

import torch
from torch import Tensor

from model.attention.chunked.causal import CausalBlock, CausalGroup
from model.attention.chunked.gradients import Gradients, Results
from model.attention.chunked.plan import Group
from model.attention.chunked.spans import Spans, scan_back
from model.attention.chunked.state import Borders, Sums, join_sums, scan_chunks, split_sums


def backward(block: CausalBlock, groups: list[Group], results: Results, borders: Borders, into: Gradients) -> None:
    """Write the gradients of a block of batch rows into `into`, from the states at the start of each group."""
    shape = (block.size, block.inputs.nb_features, block.inputs.v.shape[-1])
    space = block.space
    adjoint = Sums(space("adjoint", *shape).zero_(), space("adjoint_totals", *shape[:2]).zero_(), Tensor())
    for index, group in reversed(list(enumerate(groups))):
        computed, _ = block.compute(group, borders.load(index, block.rows))
        quotients = results.quotients(block.rows, group.tokens, space)
        scaled, shares = (x.reshape(*computed.v.shape[:2], -1) for x in quotients)
        later, adjoint = _scan_back(block, computed, scaled, shares, adjoint)
        _group_gradients(block, computed, scaled, shares, later, group, into)


def _scan_back(
    block: CausalBlock, group: CausalGroup, scaled: Tensor, shares: Tensor, adjoint: Sums
) -> tuple[Sums, Sums]:
    """Return R and r at the end of each chunk, [R G, m, E] and [R G, 1, m], and those at the start of the group."""
    space, chunks = block.space, group.decays.carry.shape[1]
    read = group.decays.read.view(-1, shares.shape[1], 1)
    width, nb_features = scaled.shape[-1], group.phi_q.shape[-1]
    weighted = torch.mul(scaled, read, out=space("weighted", *scaled.shape))
    if group.spans is not None:
        return _scan_spans_back(block, group.spans, group.phi_q, weighted, shares * read, adjoint)
    shape, total_shape = (block.size, chunks, nb_features, width), (block.size, chunks, 1, nb_features)
    added = torch.bmm(group.phi_q.mT, weighted, out=space("added", scaled.shape[0], nb_features, width))
    added, added_totals = added.view(shape), torch.bmm((shares * read).mT, group.phi_q).view(total_shape)
    later, later_totals = space("later", *shape), space("later_totals", *total_shape)
    carry = group.decays.carry.unbind(1)[::-1]
    scan_chunks(adjoint.values, added.unbind(1)[::-1], carry, later.unbind(1)[::-1], adjoint.values)
    totals = adjoint.totals.unsqueeze(1)
    scan_chunks(totals, added_totals.unbind(1)[::-1], carry, later_totals.unbind(1)[::-1], totals)
    return Sums(later.flatten(0, 1), later_totals.flatten(0, 1), Tensor()), adjoint


def _scan_spans_back(
    block: CausalBlock, spans: Spans, phi_q: Tensor, weighted: Tensor, shares: Tensor, adjoint: Sums
) -> tuple[Sums, Sums]:
    """Return what `_scan_back` does, by operators over all chunks; both factors of phi_q are in units of the state."""
    nb_features, width = adjoint.values.shape[1:]
    shape = (block.size, -1, nb_features * (width + 1))
    added, later = (block.space(name, phi_q.shape[0], shape[-1]) for name in ("added", "later"))
    values, totals = split_sums(added, width)
    torch.bmm(phi_q.mT, weighted, out=values)
    torch.bmm(shares.mT, phi_q, out=totals.unsqueeze(1))
    found, first = scan_back(spans, join_sums(adjoint), added.view(shape), later.view(shape))
    values, totals = split_sums(found.reshape(later.shape), width)
    return Sums(values, totals.unsqueeze(1), Tensor()), Sums(*split_sums(first, width), Tensor())


def _group_gradients(
    block: CausalBlock,
    group: CausalGroup,
    scaled: Tensor,
    shares: Tensor,
    later: Sums,
    tokens: Group,
    into: Gradients,
) -> None:
    """Write a group's gradients; `scaled` is g' [R G, L, E], `shares` e [R G, L, 1], `later` R and r at chunk ends."""
    space, (size, length, width), nb_features = block.space, group.v.shape, group.phi_q.shape[-1]
    read, write = (x.view(size, length, 1) for x in (group.decays.read, group.decays.write))
    grad_v = torch.bmm(group.phi_k, later.values, out=space("grad_v", size, length, width)).mul_(write)
    grad_v.baddbmm_(group.weights.mT, scaled)
    pairs = torch.bmm(scaled, group.v.mT, out=space("pairs", size, length, length))
    pairs.add_(shares).mul_(group.decays.within.view_as(pairs))
    grad_q = torch.bmm(pairs, group.phi_k, out=space("grad_phi_q", size, length, nb_features))
    weighted = torch.mul(scaled, read, out=space("weighted", size, length, width))
    grad_q.baddbmm_(weighted, group.states.mT).addcmul_(shares * read, group.totals)
    grad_k = torch.bmm(pairs.mT, group.phi_q, out=space("grad_phi_k", size, length, nb_features))
    weighted = torch.mul(group.v, write, out=space("weighted", size, length, width))
    grad_k.baddbmm_(weighted, later.values.mT).addcmul_(write, later.totals)
    rows = (block.size, -1, nb_features)
    of_q = block.features.queries_backward(group.phi_q.view(rows), grad_q.view(rows))
    of_k, of_scale = block.features.keys_backward(group.k, group.phi_k.view(rows), grad_k.view(rows))
    into.store(block.rows, tokens.tokens, q=of_q, k=of_k, v=grad_v, log_scale=of_scale)
