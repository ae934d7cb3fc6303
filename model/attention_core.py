"""The operation inside attention, behind one interface: `core(q, k, v, *, key_mask=None, causal) -> out`.

q [B, H, N, D] and k, v [B, H, M, D]; `key_mask` bool [B, M] is True at real tokens; out [B, H, N, D]. Causal
attention needs N = M. A row that sees no key is 0, with finite gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.feature_maps import FeatureMap, make_feature_map
from model.linear_attention import NO_KEY_YET, LinearState, absorb, initial_state, read
from model.types import PerformerParams

CHUNK = 64


class SoftmaxCore(nn.Module):
    """Exact attention (Vaswani et al. 2017, arXiv 1706.03762) through `scaled_dot_product_attention`."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        """Attend with weights softmax(q . k / sqrt(D)); shapes as in the module's docstring."""
        if key_mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        allowed = key_mask[:, None, None, :]
        if causal:
            allowed = allowed & torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        sees_a_key = allowed.any(-1, keepdim=True)  # [B, 1, 1 or N, 1]
        # A row without a key attends to all of them, which is finite, and is then set to 0.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | ~sees_a_key)
        return out.masked_fill(~sees_a_key, 0.0)


class LinearCore(nn.Module):
    """Attention in linear time through a feature map (Katharopoulos et al. 2020; Choromanski et al. 2021).

    Computed in float32 at least, also under autocast: denominators span forty orders of magnitude.
    """

    def __init__(self, features: FeatureMap) -> None:
        super().__init__()
        self.features = features

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        """Attend with weights phi(q) . phi(k); shapes as in the module's docstring."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            q_features = self.features.query(q.to(dtype))  # [B, H, N, m]
            k_features, log_scale = self.features.key(k.to(dtype))  # [B, H, M, m], [B, H, M]
            if key_mask is not None:
                log_scale = log_scale.masked_fill(~key_mask[:, None, :], -torch.inf)
            attend = causal_linear_attention if causal else linear_attention
            return attend(q_features, k_features, log_scale, v.to(dtype)).to(q.dtype)

    def initial_state(self, k: Tensor) -> LinearState:
        """The state before any key, for keys like k [B, H, M, D]: its batch, heads, dtype and device."""
        nb_features = self.features.key(k[:1, :, :1].float())[0].shape[-1]
        return initial_state(k.shape[0], k.shape[1], nb_features, k.shape[-1], dtype=k.dtype, device=k.device)

    def absorb(self, state: LinearState, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None) -> LinearState:
        """The state after keys k and values v [B, H, M, D]; those where `key_mask` [B, M] is False leave no trace."""
        dtype = state.sums.dtype
        with torch.autocast(k.device.type, enabled=False):
            k_features, log_scale = self.features.key(k.to(dtype))
            if key_mask is not None:
                log_scale = log_scale.masked_fill(~key_mask[:, None, :], -torch.inf)
            return absorb(state, k_features, log_scale, v.to(dtype))

    def read(self, state: LinearState, q: Tensor) -> Tensor:
        """Attention of queries q [B, H, N, D] to every key in the state: [B, H, N, D] in q's dtype."""
        with torch.autocast(q.device.type, enabled=False):
            return read(state, self.features.query(q.to(state.sums.dtype))).to(q.dtype)

    def step(self, state: LinearState, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, LinearState]:
        """One token of causal attention, q, k and v [B, H, 1, D]: its output [B, H, 1, D] and the next state."""
        state = self.absorb(state, k, v)
        return self.read(state, q), state


def linear_attention(q_features: Tensor, k_features: Tensor, log_scale: Tensor, v: Tensor) -> Tensor:
    """Bidirectional form: q_features [B, H, N, m], k_features [B, H, M, m], log_scale [B, H, M], v [B, H, M, D]."""
    peak = log_scale.detach().amax(-1, keepdim=True).clamp(min=NO_KEY_YET)  # cancels, so no gradient
    weighted = (log_scale - peak).exp().unsqueeze(-1) * _with_ones(v)  # [B, H, M, D + 1]
    return _normalise(q_features @ (k_features.mT @ weighted))


def causal_linear_attention(q_features: Tensor, k_features: Tensor, log_scale: Tensor, v: Tensor) -> Tensor:
    """Causal form, M = N, in chunks: quadratic inside a chunk, a state [B, H, m, D + 1] for the keys before it.

    The state is kept in units of exp(`peak`), the running maximum of `log_scale`: no key is scaled by a later one.
    """
    values = _with_ones(v)
    state = values.new_zeros(*values.shape[:2], k_features.shape[-1], values.shape[-1])
    peak = log_scale.new_full((*log_scale.shape[:2], 1), NO_KEY_YET)  # of the keys before the chunk
    outs = []
    chunks = (torch.split(part, CHUNK, dim=2) for part in (q_features, k_features, log_scale, values))
    for q_chunk, k_chunk, scale, value in zip(*chunks, strict=True):
        peaks = torch.maximum(scale.detach().cummax(-1).values, peak)  # [B, H, L], cancels: no gradient
        earlier = torch.ones(2 * (scale.shape[-1],), dtype=torch.bool, device=v.device).tril()
        log_weight = (scale.unsqueeze(-2) - peaks.unsqueeze(-1)).masked_fill(~earlier, -torch.inf)
        inside = ((q_chunk @ k_chunk.mT) * log_weight.exp()) @ value
        before = (peak - peaks).exp().unsqueeze(-1) * (q_chunk @ state)
        outs.append(_normalise(inside + before))
        last = peaks[..., -1:]
        added = k_chunk.mT @ ((scale - last).exp().unsqueeze(-1) * value)
        state = (peak - last).exp().unsqueeze(-1) * state + added
        peak = last
    return torch.cat(outs, dim=2)


def _with_ones(v: Tensor) -> Tensor:
    """V with a column of ones, under which the denominator is summed like the numerator."""
    return F.pad(v, (0, 1), value=1.0)


def _normalise(sums: Tensor) -> Tensor:
    """Numerator over denominator. Nothing is added to it: at 1e-8, a usual size, an eps of 1e-6 would be the result."""
    numerator, denominator = sums[..., :-1], sums[..., -1:]
    empty = denominator < torch.finfo(sums.dtype).tiny
    return numerator / denominator.masked_fill(empty, 1.0)


def make_core(params: PerformerParams) -> nn.Module:
    """The core of `params.attention_type`."""
    return LinearCore(make_feature_map(params)) if params.is_linear else SoftmaxCore()
