"""Recurrent form of linear attention: a state of constant size that keys are absorbed into and queries read.

The state of the chunked form (`model.attention_core`) and of decoding is one and the same: S = sum_j phi(k_j) v_j^T
and z = sum_j phi(k_j) (Katharopoulos et al. 2020, arXiv 2006.16236), kept in units of exp(peak), where `peak` is the
running maximum of the keys' log scales. No key is scaled by a later one, and nothing overflows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NO_KEY_YET = -1e30
"""Running maximum before the first key: finite, so that -inf (a masked key) minus it is no NaN."""


class LinearState(NamedTuple):
    """Everything that linear attention keeps of the keys seen so far; float32, or float64 for float64 inputs."""

    sums: Tensor
    """S [B, H, m, D]: sum of phi(k) v^T, in units of exp(peak)."""
    totals: Tensor
    """z [B, H, m]: sum of phi(k), in units of exp(peak)."""
    peak: Tensor
    """Running maximum of the keys' log scales [B, H]."""

    def select(self, rows: Tensor) -> "LinearState":
        """The states of the batch rows `rows` int64 [B'], as after beam search or sampling."""
        return LinearState(*(part.index_select(0, rows) for part in self))


def initial_state(
    batch: int, heads: int, nb_features: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> LinearState:
    """The state before any key; reading it gives 0. `dtype` below float32 becomes float32."""
    wide = torch.promote_types(dtype, torch.float32)
    return LinearState(
        torch.zeros(batch, heads, nb_features, head_dim, dtype=wide, device=device),
        torch.zeros(batch, heads, nb_features, dtype=wide, device=device),
        torch.full((batch, heads), NO_KEY_YET, dtype=wide, device=device),
    )


def absorb(state: LinearState, k_features: Tensor, log_scale: Tensor, v: Tensor) -> LinearState:
    """State after M more keys: k_features [B, H, M, m], log_scale [B, H, M] (-inf where masked), v [B, H, M, D]."""
    peak = torch.maximum(state.peak, log_scale.detach().amax(-1))
    kept = (state.peak - peak).exp()[..., None]  # [B, H, 1]
    weighted = k_features * (log_scale - peak[..., None]).exp().unsqueeze(-1)  # [B, H, M, m]
    sums = kept.unsqueeze(-1) * state.sums + weighted.mT @ v
    return LinearState(sums, kept * state.totals + weighted.sum(-2), peak)


def read(state: LinearState, q_features: Tensor) -> Tensor:
    """Attention of queries [B, H, N, m] to every key absorbed so far: [B, H, N, D], 0 where there was none."""
    numerator = q_features @ state.sums
    return divide(numerator, q_features @ state.totals.unsqueeze(-1))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their ratio. Nothing is added to a denominator: at 1e-8, a usual size, an eps of 1e-6 would be the result."""
    empty = denominator < torch.finfo(denominator.dtype).tiny
    return numerator / denominator.masked_fill(empty, 1.0)
