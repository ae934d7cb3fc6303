"""Multi-head attention over a sequence or over a context, around a core of `model.core_registry`."""

import torch
from torch import Tensor, nn

from model.core_registry import build_core
from model.decoding_state import CoreState, make_core_state
from model.position import Rotation, rotate
from model.types import PerformerParams


class MultiHeadAttention(nn.Module):
    """Projections to heads, the core and the projection back; `params.attention_type` is one name.

    With `num_kv_heads` groups of query heads share keys and values (arXiv 2305.13245); with `qk_norm` queries and
    keys are RMS-normalised in each head (arXiv 2010.04245), before the rotation.
    """

    def __init__(self, params: PerformerParams) -> None:
        super().__init__()
        self.num_heads, self.head_dim = params.num_heads, params.head_dim
        self.num_kv_heads = params.num_kv_heads or params.num_heads
        # No biases: softmax cannot see one of the keys, which would then have no gradient.
        self.to_q = nn.Linear(params.d_model, params.d_model, bias=False)
        self.to_k = nn.Linear(params.d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.to_v = nn.Linear(params.d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim) if params.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim) if params.qk_norm else nn.Identity()
        self.core = build_core(params)
        self.to_out = nn.Linear(params.d_model, params.d_model)
        self.dropout = nn.Dropout(params.dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | CoreState | None = None,
        *,
        key_mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        seen: CoreState | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Attend from x [B, N, d_model] to `context` [B, M, d_model], or to x itself without one.

        `key_mask` bool [B, M] is True at keys that may be seen; `rotation` is of x's positions, for self-attention.
        While decoding, `context` is what `remember` made of it, and `seen` is what self-attention has seen so far,
        which takes in x: a whole prompt while it is empty, one token from then on. `memory` [B, num_kv_heads, P, D]
        stands for both keys and values of the first P places. Returns [B, N, d_model].
        """
        q = self.q_norm(self._heads(self.to_q(x)))  # [B, H, N, D]
        if rotation is not None:
            q = rotate(q, rotation)
        if isinstance(context, CoreState):
            return self._joined(context.read(q))
        k, v = self._keys_values(x if context is None else context, rotation)  # [B, num_kv_heads, M, D] each
        if memory is not None:
            slots = memory.shape[2]
            k, v = (torch.cat([memory.to(part.dtype), part[:, :, slots:]], 2) for part in (k, v))
        if seen is not None:
            seen.absorb(k, v, key_mask)
            if x.shape[1] == 1:
                return self._joined(seen.read(q))
        groups = self.num_heads // self.num_kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        heads = self.core(q, k, v, key_mask=key_mask, causal=causal)
        del q, k, v  # at a million tokens, the most of what is held
        return self._joined(heads)

    def new_state(self, room: int) -> CoreState:
        """An empty state for decoding, with room for `room` tokens behind the first ones where that needs room."""
        return make_core_state(self.core, room)

    def remember(self, context: Tensor, key_mask: Tensor | None = None) -> CoreState:
        """The keys and values of a context [B, M, d_model], to be given as `context` in its place any number of times.

        `key_mask` bool [B, M] is True at keys that may be seen.
        """
        state = self.new_state(room=0)
        state.absorb(*self._keys_values(context, None), key_mask)
        return state

    def _keys_values(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        k = self.k_norm(self._heads(self.to_k(x)))
        return (k if rotation is None else rotate(k, rotation)), self._heads(self.to_v(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [B, N, heads * D] to [B, heads, N, D]

    def _joined(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.dropout(self.to_out(heads.transpose(1, 2).flatten(2)))  # [B, H, N, D] to [B, N, d_model]
        return joined
