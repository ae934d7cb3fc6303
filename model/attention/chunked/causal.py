"""Causal linear attention over a block of batch rows: quadratic inside a chunk, a state for earlier keys.

With phi'_q, phi'_k the features without their scales, w_ij = 2^(c_j - m_i) and rho_i = 2^(M_b - m_i), where m is the
running maximum of the scales c, and M_b its value at the start of chunk b:
    [num, den]_i = sum_j (phi'_q_i . phi'_k_j) w_ij [v_j, 1] + rho_i phi'_q_i [S_b, z_b];   out = num / den
    [S, z]_(b+1) = 2^(M_b - M_(b+1)) [S, z]_b + sum_j phi'_k_j 2^(c_j - M_(b+1)) [v_j, 1]
c and m cancel and take no gradient. The states follow one another in a loop over chunks on a CPU, and by
`model.attention.chunked.spans` on other devices. Backward recomputes a group from the state at its start, and carries
the gradient of the state from the last chunk to the first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.chunked.block import Block
from model.attention.chunked.plan import Group
from model.attention.chunked.spans import Spans, make_spans, scan
from model.attention.chunked.state import Borders, Decays, Sums, join_sums, make_decays, scan_chunks, split_sums


class CausalGroup(NamedTuple):
    """Tensors of a group that forward and backward need; R rows, G chunks of L tokens."""

    q: Tensor  # [R, T, D], and k
    k: Tensor
    v: Tensor  # [R G, L, E]
    phi_q: Tensor  # [R G, L, m], and phi_k
    phi_k: Tensor
    weights: Tensor  # A_ij = phi'_q_i . phi'_k_j w_ij, [R G, L, L]
    decays: Decays
    states: Tensor  # S_b [R G, m, E]
    totals: Tensor  # z_b [R G, 1, m]
    spans: Spans | None  # of the scan on other devices than a CPU


class CausalBlock(Block):
    """Causal attention over a block of batch rows."""

    def compute(self, group: Group, start: Sums) -> tuple[CausalGroup, Sums]:
        """Compute a group from the state `start`; return it and the state after it."""
        (_, chunks, length), space = group, self.space
        (q, phi_q), (k, phi_k, scale) = self.queries(group), self.keys(group)
        v = self.part(self.inputs.v, group, "v")
        v = v if v.is_contiguous() else space("v", *v.shape).copy_(v)
        phi_q, phi_k, v = (x.reshape(self.size * chunks, length, -1) for x in (phi_q, phi_k, v))
        decays = make_decays(scale, start.peak, group, space)
        weights = torch.bmm(phi_q, phi_k.mT, out=space("weights", self.size * chunks, length, length))
        weights *= decays.within.view_as(weights)
        write = decays.write.view(v.shape[0], -1, 1)
        weighted = torch.mul(v, write, out=space("weighted", *v.shape))
        spans = None if space.device.type == "cpu" else make_spans(decays.borders)
        if spans is None:
            states, totals, end = self._scan(phi_k, weighted, write, decays, start)
        else:
            states, totals, end = self._scan_spans(phi_k, weighted, write, decays, start, spans)
        return CausalGroup(q, k, v, phi_q, phi_k, weights, decays, states, totals, spans), end

    def _scan_spans(
        self, phi_k: Tensor, weighted: Tensor, write: Tensor, decays: Decays, start: Sums, spans: Spans
    ) -> tuple[Tensor, Tensor, Sums]:
        """Return what `_scan` does, by operators over all chunks."""
        nb_features, width = start.values.shape[1:]
        shape = (self.size, -1, nb_features * (width + 1))
        added, states = (self.space(name, phi_k.shape[0], shape[-1]) for name in ("added", "states"))
        values, totals = split_sums(added, width)
        torch.bmm(phi_k.mT, weighted, out=values)
        torch.bmm(write.mT, phi_k, out=totals.unsqueeze(1))
        found, last = scan(spans, join_sums(start), added.view(shape), states.view(shape))
        values, totals = split_sums(found.reshape(states.shape), width)
        return values, totals.unsqueeze(1), Sums(*split_sums(last, width), decays.peak)

    def _scan(
        self, phi_k: Tensor, weighted: Tensor, write: Tensor, decays: Decays, start: Sums
    ) -> tuple[Tensor, Tensor, Sums]:
        """Return the states at the start of each chunk, [R G, m, E] and [R G, 1, m], and the one after the last."""
        space, chunks, (nb_features, width) = self.space, decays.carry.shape[1], start.values.shape[1:]
        shape, total_shape = (self.size, chunks, nb_features, width), (self.size, chunks, 1, nb_features)
        added = torch.bmm(phi_k.mT, weighted, out=space("added", phi_k.shape[0], nb_features, width)).view(shape)
        added_totals = torch.bmm(write.mT, phi_k).view(total_shape)
        states, totals = space("states", *shape), space("totals", *total_shape)
        end = Sums(space("state", *start.values.shape), space("state_totals", *start.totals.shape), decays.peak)
        carry = decays.carry.unbind(1)
        scan_chunks(start.values, added.unbind(1), carry, states.unbind(1), end.values)
        totals_end = end.totals.unsqueeze(1)
        scan_chunks(start.totals.unsqueeze(1), added_totals.unbind(1), carry, totals.unbind(1), totals_end)
        return states.flatten(0, 1), totals.flatten(0, 1), end

    def output(self, group: CausalGroup) -> tuple[Tensor, Tensor]:
        """Return the numerator [R G, L, E] and denominator [R G, L, 1], which is inf in a row without a key."""
        read = group.decays.read.view(*group.v.shape[:2], 1)
        numerator = torch.bmm(group.weights, group.v, out=self.space("numerator", *group.v.shape))
        earlier = torch.bmm(group.phi_q, group.states, out=self.space("earlier", *group.v.shape))
        numerator.addcmul_(earlier, read)
        denominator = group.weights.sum(-1, keepdim=True)
        denominator.addcmul_(torch.bmm(group.totals, group.phi_q.mT).mT, read)
        return numerator, denominator.masked_fill_(group.decays.is_empty.view_as(read), torch.inf)


def forward(
    block: CausalBlock, groups: list[Group], out: Tensor, denominators: Tensor, borders: Borders | None
) -> None:
    """Fill out [B, H, N, E], denominators [B, H, N] and, unless None, the states at the start of each group."""
    state = block.start()
    for index, group in enumerate(groups):
        if borders is not None:
            borders.save(index, block.rows, state)
        computed, state = block.compute(group, state)
        block.divide(*block.output(computed), group, out, denominators)
