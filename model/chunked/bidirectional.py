"""Bidirectional linear attention over a block of batch rows: one pass over the keys, one over the queries.

out_i = phi_q_i S / phi_q_i z with the sums over all keys; the gradient is one pass over the queries, for those of S
and z, and one over the keys. Notation as in `model.chunked.causal`.
"""

import torch
from torch import Tensor

from model.chunked.causal import TINY
from model.chunked.causal_backward import Gradients, Results
from model.chunked.features import ChunkFeatures
from model.chunked.inputs import NO_KEY_YET, Inputs, part
from model.chunked.plan import Group, Workspace
from model.chunked.state import Sums, no_sums


class BidirectionalBlock:
    """The rows of `inputs` in `rows`, in the dtype of `space`."""

    def __init__(self, inputs: Inputs, rows: slice, space: Workspace) -> None:
        self.inputs, self.rows, self.space = inputs, rows, space
        batch, heads = rows.stop - rows.start, inputs.q.shape[1]
        self.size = batch * heads  # R
        self.features = ChunkFeatures(inputs.kernel, batch, heads, space)

    def part(self, x: Tensor, group: Group) -> Tensor:
        """x of the group's tokens, [R, T, D]."""
        return part(x, self.rows, group.tokens, self.space.dtype)

    def keys(self, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        """k [R, T, D] of the group, its features [R, T, m] and their scales [R, T]."""
        k = self.part(self.inputs.k, group)
        return k, *self.features.keys(k, self.inputs.log_weights(self.rows, group.tokens, self.space.dtype))


def absorb(block: BidirectionalBlock, groups: list[Group]) -> Sums:
    """Sums over all keys."""
    values, totals, peak = no_sums(block.size, block.inputs.nb_features, block.inputs.v.shape[-1], block.space)
    for group in groups:
        _, phi_k, scale = block.keys(group)
        after = torch.maximum(peak, scale.amax(-1))
        carry, write = (peak - after).exp2_()[:, None], (scale - after[:, None]).exp2_().unsqueeze(-1)
        values.mul_(carry.unsqueeze(-1)).baddbmm_(phi_k.mT, block.part(block.inputs.v, group) * write)
        totals.mul_(carry).add_(torch.bmm(write.mT, phi_k).squeeze(1))
        peak = after
    return Sums(values, totals, peak)


def read(block: BidirectionalBlock, groups: list[Group], sums: Sums, out: Tensor, denominators: Tensor) -> None:
    """Fill out [B, H, N, E] and denominators [B, H, N], inf where there is no key."""
    is_empty = (sums.peak <= NO_KEY_YET)[:, None]
    for group in groups:
        phi_q = block.features.queries(block.part(block.inputs.q, group))
        numerator = torch.bmm(phi_q, sums.values, out=block.space("numerator", *phi_q.shape[:2], out.shape[-1]))
        denominator = torch.bmm(sums.totals.unsqueeze(1), phi_q.mT).squeeze(1).masked_fill_(is_empty, torch.inf)
        target, kept = out[block.rows, :, group.tokens], denominators[block.rows, :, group.tokens]
        kept.copy_(denominator.view(kept.shape))
        torch.div(numerator.view(target.shape), kept.clamp(min=TINY).unsqueeze(-1), out=target)


def queries_backward(
    block: BidirectionalBlock, groups: list[Group], sums: Sums, results: Results, into: Gradients
) -> Sums:
    """Fill in the gradient of q; returns R and r."""
    space = block.space
    adjoint, adjoint_totals = torch.zeros_like(sums.values), torch.zeros_like(sums.totals)
    for group in groups:
        phi_q = block.features.queries(block.part(block.inputs.q, group))
        scaled, shares = results.quotients(block.rows, group.tokens, space.dtype)
        adjoint.baddbmm_(phi_q.mT, scaled)
        adjoint_totals += torch.bmm(shares.mT, phi_q).squeeze(1)
        gradient = torch.bmm(scaled, sums.values.mT, out=space("grad_phi_q", *phi_q.shape))
        gradient.addcmul_(shares, sums.totals.unsqueeze(1))
        into.store(block.rows, group.tokens, q=block.features.queries_backward(phi_q, gradient))
    return Sums(adjoint, adjoint_totals, sums.peak)


def keys_backward(block: BidirectionalBlock, groups: list[Group], adjoint: Sums, into: Gradients) -> None:
    """Fill in the gradients of k, v and the log scales from R and r."""
    for group in groups:
        k, phi_k, scale = block.keys(group)
        v = block.part(block.inputs.v, group)
        write = (scale - adjoint.peak[:, None]).exp2_().unsqueeze(-1)
        grad_v = torch.bmm(phi_k, adjoint.values).mul_(write)
        gradient = torch.bmm(v * write, adjoint.values.mT, out=block.space("grad_phi_k", *phi_k.shape))
        gradient.addcmul_(write, adjoint.totals.unsqueeze(1))
        of_k, of_scale = block.features.keys_backward(k, phi_k, gradient)
        into.store(block.rows, group.tokens, k=of_k, v=grad_v, log_scale=of_scale)
