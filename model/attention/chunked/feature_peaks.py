"""Bidirectional linear attention in powers of two with a peak for each feature, which float32 holds for any inputs.

With l the log2 of features and P_f = max_j l_jf over the keys,
    S_f = sum_j 2^(l_jf - P_f) v_j,   z_f = sum_j 2^(l_jf - P_f) >= 1
    out_i = sum_f w_if S_f / sum_f w_if z_f,   w_if = 2^(l_if + P_f - max_f (l_if + P_f))
so that no denominator is below 1. One peak for each key, as in `model.attention.chunked.bidirectional`, keeps
features in the cache of a CPU, but denominators may underflow, which the host must check.
"""

import torch
from torch import Tensor

from model.attention.chunked.block import Block
from model.attention.chunked.gradients import Gradients
from model.attention.chunked.inputs import NO_KEY_YET, Inputs
from model.attention.chunked.plan import Group, Workspace
from model.attention.chunked.state import Sums


def has_feature_peaks(inputs: Inputs, *, is_causal: bool) -> bool:
    """Return True if a call is computed in this form: exponential features, all keys, and not on a CPU."""
    return inputs.kernel.kind == "exp" and not is_causal and inputs.q.device.type != "cpu"


class PeakBlock(Block):
    """Block of batch rows whose `peak` [R, m] holds the largest exponent of each feature over the keys so far."""

    def __init__(self, inputs: Inputs, rows: slice, space: Workspace, peak: Tensor | None = None) -> None:
        super().__init__(inputs, rows, space)
        no_key = torch.full((), NO_KEY_YET, dtype=space.dtype, device=space.device)
        self.peak = no_key.expand(self.size, inputs.nb_features) if peak is None else peak

    def start(self) -> Sums:
        """Return the sums before any key, which are 0."""
        return super().start()._replace(peak=self.peak)

    def is_empty(self, sums: Sums) -> Tensor:
        """Return bool [R, 1], True where a row has no key."""
        return sums.peak.amax(-1, keepdim=True) <= NO_KEY_YET

    def queries(self, group: Group) -> tuple[Tensor, Tensor]:
        """Return q [R, T, D] of the group and its features [R, T, m] in units of the peaks, at most 1."""
        q = self.part(self.inputs.q, group, "q")
        exponents = self.features.query_exponents(q).add_(self.peak.unsqueeze(1))
        return q, exponents.sub_(exponents.amax(-1, keepdim=True)).exp2_()

    def key_exponents(self, group: Group) -> tuple[Tensor, Tensor]:
        """Return k [R, T, D] of the group and the log2 of its features [R, T, m]."""
        k = self.part(self.inputs.k, group, "k")
        return k, self.features.key_exponents(k, self.inputs.log_weights(self.rows, group.tokens, self.space.dtype))


def sum_keys(block: PeakBlock, groups: list[Group]) -> Sums:
    """Return the sums over all keys, with peaks [R, m]."""
    values, totals, _ = block.start()
    for group in groups:
        _, exponents = block.key_exponents(group)
        before, block.peak = block.peak, torch.maximum(block.peak, exponents.amax(1))
        carry = (before - block.peak).exp2_()
        phi_k = exponents.sub_(block.peak.unsqueeze(1)).exp2_()
        values.mul_(carry.unsqueeze(-1)).baddbmm_(phi_k.mT, block.part(block.inputs.v, group, "v"))
        totals.mul_(carry).add_(phi_k.sum(1))
    return Sums(values, totals, block.peak)


def keys_backward(block: PeakBlock, groups: list[Group], adjoint: Sums, into: Gradients) -> None:
    """Write the gradients of k, v and the log scales into `into`, from those of S and z in `adjoint`."""
    space = block.space
    for group in groups:
        k, exponents = block.key_exponents(group)
        phi_k = exponents.sub_(block.peak.unsqueeze(1)).exp2_()
        v = block.part(block.inputs.v, group, "v")
        grad_v = torch.bmm(phi_k, adjoint.values, out=space("grad_v", *v.shape))
        gradient = torch.bmm(v, adjoint.values.mT, out=space("grad_phi_k", *phi_k.shape))
        gradient += adjoint.totals.unsqueeze(1)
        of_k, of_scale = block.features.keys_backward(k, phi_k, gradient)
        into.store(block.rows, group.tokens, k=of_k, v=grad_v, log_scale=of_scale)
