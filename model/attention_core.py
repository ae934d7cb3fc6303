"""Attention cores, which all have the interface `core(q, k, v, *, key_mask=None, causal) -> out`.

q [B, H, N, D] and k, v [B, H, M, D]; `key_mask` bool [B, M] is True at real tokens; out [B, H, N, D]. Causal
attention needs N = M. A row without a visible key is 0, with finite gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.chunked.features import Kernel
from model.chunked.op import linear_attention
from model.feature_maps import FeatureMap, make_feature_map
from model.linear_attention import LinearState, attend, initial_state, update
from model.types import PerformerParams


class SoftmaxCore(nn.Module):
    """Exact attention (Vaswani et al. 2017, arXiv 1706.03762) through `scaled_dot_product_attention`."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        """Attend with weights softmax(q . k / sqrt(D)): q [B, H, N, D], k and v [B, H, M, D] to [B, H, N, D].

        `key_mask` bool [B, M] is True at real tokens.
        """
        if key_mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        allowed = key_mask[:, None, None, :]
        if causal:
            allowed = allowed & torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        sees_a_key = allowed.any(-1, keepdim=True)  # [B, 1, 1 or N, 1]
        # A row without a visible key attends to all keys, which is finite, and is then set to 0.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | ~sees_a_key)
        return out.masked_fill(~sees_a_key, 0.0)


class LinearCore(nn.Module):
    """Attention in linear time through a feature map (Katharopoulos et al. 2020; Choromanski et al. 2021).

    It computes in float32 at least, also under autocast: denominators span forty orders of magnitude.
    """

    def __init__(self, features: FeatureMap) -> None:
        super().__init__()
        self.features = features

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        """Attend with weights phi(q) . phi(k): q [B, H, N, D], k and v [B, H, M, D] to [B, H, N, D] in q's dtype.

        `key_mask` bool [B, M] is True at real tokens.
        """
        with torch.autocast(q.device.type, enabled=False):
            kernel = self.features.kernel()
            if kernel is not None:
                out = linear_attention(q, k, v, kernel, key_mask=key_mask, causal=causal)
            else:
                dtype = torch.promote_types(q.dtype, torch.float32)
                (k_features, scale), identity = self.features.key(k.to(dtype)), Kernel("identity")
                features = self.features.query(q.to(dtype)), k_features
                out = linear_attention(*features, v, identity, key_mask=key_mask, log_scale=scale, causal=causal)
            if self.training:
                self.features.observe(q, k, key_mask)  # after attention: this step must not use statistics of itself
            return out.to(q.dtype)

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
