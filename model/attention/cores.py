"""Attention cores, which all have the interface `core(q, k, v, *, key_mask=None, causal) -> out`.

q [B, H, N, D] and k, v [B, H, M, D]; `key_mask` bool [B, M] is True at real tokens; out [B, H, N, D]. Causal
attention needs N = M. A row without a visible key is 0, with finite gradients.

In packed rows a query sees the keys of its own document alone. A core with `takes_documents` is passed `documents`, a
`model.attention.documents.Documents`; any other one is called on the documents as rows (`Documents.attend_apart`).
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention.chunked.features import Kernel
from model.attention.chunked.inputs import NO_KEY_YET
from model.attention.chunked.op import linear_attention
from model.attention.documents import Documents
from model.attention.feature_maps import FeatureMap, make_feature_map
from model.types import PerformerParams

# Recurrent form of linear attention: a state of constant size that keys update and queries attend to.


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


class SoftmaxCore(nn.Module):
    """Exact attention (Vaswani et al. 2017, arXiv 1706.03762) through `scaled_dot_product_attention`."""

    takes_documents: ClassVar[bool] = True

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_mask: Tensor | None = None,
        causal: bool,
        documents: Documents | None = None,
    ) -> Tensor:
        """Attend with weights softmax(q . k / sqrt(D)): q [B, H, N, D], k and v [B, H, M, D] to [B, H, N, D].

        `key_mask` bool [B, M] is True at real tokens; `documents` are those of the N = M tokens.
        """
        if key_mask is None and documents is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        allowed = q.new_ones(1, 1, 1, 1, dtype=torch.bool) if key_mask is None else key_mask[:, None, None, :]
        if documents is not None:
            allowed = allowed & documents.same[:, None]
        if causal:
            allowed = allowed & torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        sees_a_key = allowed.any(-1, keepdim=True)  # [B, 1, 1 or N, 1]
        # A row without a visible key attends to all keys, which is finite, and is then set to 0.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | ~sees_a_key)
        return out.masked_fill(~sees_a_key, 0.0)


class LinearCore(nn.Module):
    """Attention in linear time through a feature map (Katharopoulos et al. 2020; Choromanski et al. 2021).

    It computes in float32 at least, also under autocast: denominators span forty orders of magnitude. Each document of
    a packed row has its own sums: a causal state begins anew at its first token.
    """

    takes_documents: ClassVar[bool] = True

    def __init__(self, features: FeatureMap) -> None:
        super().__init__()
        self.features = features

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_mask: Tensor | None = None,
        causal: bool,
        documents: Documents | None = None,
    ) -> Tensor:
        """Attend with weights phi(q) . phi(k): q [B, H, N, D], k and v [B, H, M, D] to [B, H, N, D] in q's dtype.

        `key_mask` bool [B, M] is True at real tokens; `documents` are those of the N = M tokens.
        """
        with torch.autocast(q.device.type, enabled=False):
            if documents is None:
                out = self._attend(q, k, v, key_mask=key_mask, causal=causal)
            else:
                out = documents.attend_apart(self._attend, q, k, v, key_mask=key_mask, causal=causal)
            if self.training and not self.features.is_repeated:
                self.features.observe(q, k, key_mask)  # after attention: this step must not use statistics of itself
            return out.to(q.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, causal: bool) -> Tensor:
        kernel = self.features.kernel()
        if kernel is not None:
            return linear_attention(q, k, v, kernel, key_mask=key_mask, causal=causal)
        dtype = torch.promote_types(q.dtype, torch.float32)
        (k_features, scale), identity = self.features.key(k.to(dtype)), Kernel("identity")
        features = self.features.query(q.to(dtype)), k_features
        return linear_attention(*features, v, identity, key_mask=key_mask, log_scale=scale, causal=causal)

    def initial_state(self, k: Tensor) -> LinearState:
        """Return the state before any key, for the batch, heads, dtype and device of k [B, H, M, D]."""
        batch, heads, _, head_dim = k.shape
        return initial_state(batch, heads, self.features.nb_features, head_dim, dtype=k.dtype, device=k.device)

    def update(self, state: LinearState, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None) -> LinearState:
        """Return the state after keys k and values v [B, H, M, D], without those where `key_mask` [B, M] is False."""
        dtype = state.sums.dtype
        with torch.autocast(k.device.type, enabled=False):
            log_k = self.features.log_key(k.to(dtype))
            if key_mask is not None:
                log_k = log_k.masked_fill(~key_mask[:, None, :, None], -torch.inf)
            return update(state, log_k, v.to(dtype))

    def attend(self, state: LinearState, q: Tensor) -> Tensor:
        """Return the attention of queries q [B, H, N, D] to every key in the state: [B, H, N, D] in q's dtype."""
        with torch.autocast(q.device.type, enabled=False):
            return attend(state, self.features.log_query(q.to(state.sums.dtype))).to(q.dtype)

    def step(self, state: LinearState, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, LinearState]:
        """Compute causal attention of one token, q, k and v [B, H, 1, D]; return [B, H, 1, D] and the next state."""
        state = self.update(state, k, v)
        return self.attend(state, q), state


def make_core(params: PerformerParams) -> nn.Module:
    """Build the built-in core of `params.attention_type`."""
    return LinearCore(make_feature_map(params)) if params.is_linear else SoftmaxCore()
