"""Bidirectional linear attention over a block of batch rows: one pass over the keys, one over the queries.

out_i = phi_q_i S / phi_q_i z with the sums over all keys; the gradient takes one pass over the queries, for the
gradients of S and z, and one over the keys. Notation as in `model.attention.chunked.causal`.
"""

import torch
from torch import Tensor

from model.attention.chunked.block import Block
from model.attention.chunked.gradients import Gradients, Results
from model.attention.chunked.plan import Group
from model.attention.chunked.state import Sums


def sum_keys(block: Block, groups: list[Group]) -> Sums:
    """Return the sums over all keys."""
    values, totals, peak = block.start()
    for group in groups:
        _, phi_k, scale = block.keys(group)
        after = torch.maximum(peak, scale.amax(-1))
        carry, write = (peak - after).exp2_()[:, None], (scale - after[:, None]).exp2_().unsqueeze(-1)
        v = block.part(block.inputs.v, group, "v")
        weighted = torch.mul(v, write, out=block.space("weighted", *v.shape))
        values.mul_(carry.unsqueeze(-1)).baddbmm_(phi_k.mT, weighted)
        totals.mul_(carry).add_(torch.bmm(write.mT, phi_k).squeeze(1))
        peak = after
    return Sums(values, totals, peak)


def attend(block: Block, groups: list[Group], sums: Sums, out: Tensor, denominators: Tensor) -> None:
    """Fill out [B, H, N, E] and denominators [B, H, N], inf for rows without a key."""
    is_empty = block.is_empty(sums)
    for group in groups:
        _, phi_q = block.queries(group)
        numerator = torch.bmm(phi_q, sums.values, out=block.space("numerator", *phi_q.shape[:2], out.shape[-1]))
        denominator = torch.bmm(sums.totals.unsqueeze(1), phi_q.mT).squeeze(1).masked_fill_(is_empty, torch.inf)
        block.divide(numerator, denominator, group, out, denominators)


def queries_backward(block: Block, groups: list[Group], sums: Sums, results: Results, into: Gradients) -> Sums:
    """Write the gradient of q into `into`; return R and r, the gradients of S and z."""
    space = block.space
    adjoint, adjoint_totals = torch.zeros_like(sums.values), torch.zeros_like(sums.totals)
    for group in groups:
        _, phi_q = block.queries(group)
        scaled, shares = results.quotients(block.rows, group.tokens, space)
        adjoint.baddbmm_(phi_q.mT, scaled)
        adjoint_totals += torch.bmm(shares.mT, phi_q).squeeze(1)
        gradient = torch.bmm(scaled, sums.values.mT, out=space("grad_phi_q", *phi_q.shape))
        gradient.addcmul_(shares, sums.totals.unsqueeze(1))
        into.store(block.rows, group.tokens, q=block.features.queries_backward(phi_q, gradient))
    return Sums(adjoint, adjoint_totals, sums.peak)


def keys_backward(block: Block, groups: list[Group], adjoint: Sums, into: Gradients) -> None:
    """Write the gradients of k, v and the log scales into `into`, from R and r in `adjoint`."""
    space = block.space
    for group in groups:
        k, phi_k, scale = block.keys(group)
        v = block.part(block.inputs.v, group, "v")
        write = (scale - adjoint.peak[:, None]).exp2_().unsqueeze(-1)
        grad_v = torch.bmm(phi_k, adjoint.values, out=space("grad_v", *v.shape)).mul_(write)
        weighted = torch.mul(v, write, out=space("weighted", *v.shape))
        gradient = torch.bmm(weighted, adjoint.values.mT, out=space("grad_phi_k", *phi_k.shape))
        gradient.addcmul_(write, adjoint.totals.unsqueeze(1))
        of_k, of_scale = block.features.keys_backward(k, phi_k, gradient)
        into.store(block.rows, group.tokens, k=of_k, v=grad_v, log_scale=of_scale)
