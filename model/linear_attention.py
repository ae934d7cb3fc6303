"""Recurrent form of linear attention: a state of constant size that keys update and queries attend to.

The state is S = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) (Katharopoulos et al. 2020, arXiv 2006.16236), each feature
in units of exp(peak), its running maximum: no key is scaled by a later one, and no sum over- or underflows at any size
of queries and keys.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.chunked.inputs import NO_KEY_YET


class LinearState(NamedTuple):
    """Sums over the keys so far; float32, or float64 for float64 inputs."""

    sums: Tensor
    """S [B, H, m, D]: sum of phi(k) v^T, in units of exp(peak)."""
    totals: Tensor
    """z [B, H, m]: sum of phi(k), in units of exp(peak)."""
    peak: Tensor
    """Running maximum of log phi(k), [B, H, m]."""

    def select(self, rows: Tensor) -> "LinearState":
        """Return the state of the batch rows `rows` int64 [B'], as after a step of beam search."""
        return LinearState(*(part.index_select(0, rows) for part in self))


def initial_state(
    batch: int, heads: int, nb_features: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> LinearState:
    """Return the state before any key; attending to it gives 0. `dtype` below float32 becomes float32."""
    wide = torch.promote_types(dtype, torch.float32)
    return LinearState(
        torch.zeros(batch, heads, nb_features, head_dim, dtype=wide, device=device),
        torch.zeros(batch, heads, nb_features, dtype=wide, device=device),
        torch.full((batch, heads, nb_features), NO_KEY_YET, dtype=wide, device=device),
    )


def update(state: LinearState, log_k: Tensor, v: Tensor) -> LinearState:
    """Return the state after M more keys: log phi(k) [B, H, M, m], -inf where masked, and v [B, H, M, D]."""
    peak = torch.maximum(state.peak, log_k.detach().amax(-2))  # [B, H, m]
    kept = (state.peak - peak).exp()
    weights = (log_k - peak.unsqueeze(-2)).exp()  # [B, H, M, m]
    sums = kept.unsqueeze(-1) * state.sums + weights.mT @ v
    return LinearState(sums, kept * state.totals + weights.sum(-2), peak)


def attend(state: LinearState, log_q: Tensor) -> Tensor:
    """Return the attention of queries, log phi(q) [B, H, N, m], to all keys so far: [B, H, N, D], 0 without a key."""
    logits = log_q + state.peak.unsqueeze(-2)
    weights = (logits - logits.detach().amax(-1, keepdim=True).clamp(min=NO_KEY_YET)).exp()
    numerator, denominator = weights @ state.sums, weights @ state.totals.unsqueeze(-1)
    # At least 1 with any key, as the largest weight and every total are: no epsilon is needed.
    return numerator / denominator.masked_fill(denominator == 0, 1.0)
