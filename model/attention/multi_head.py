"""Multi-head self-attention and cross-attention around a core of `model.core_registry`."""

import torch
from torch import Tensor, nn

from model.attention.decoding_state import CoreState, make_core_state
from model.attention.documents import Documents
from model.attention.rotary import Rotation, rotate
from model.core_registry import build_core
from model.norms import RMSNorm
from model.types import PerformerParams


class MultiHeadAttention(nn.Module):
    """Projections to heads, the core and the projection back; `params.attention_type` is that of one layer.

    With `num_kv_heads`, groups of query heads share keys and values (arXiv 2305.13245); with `qk_norm` queries and
    keys are RMS-normalised in each head (arXiv 2010.04245), before the rotation.
    """

    def __init__(self, params: PerformerParams) -> None:
        super().__init__()
        self.num_heads, self.head_dim = params.num_heads, params.head_dim
        self.num_kv_heads = params.num_kv_heads or params.num_heads
        # No biases: softmax is invariant to a bias of the keys, which would have no gradient.
        self.to_q = nn.Linear(params.d_model, params.d_model, bias=False)
        self.to_k = nn.Linear(params.d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.to_v = nn.Linear(params.d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim) if params.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim) if params.qk_norm else nn.Identity()
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
        key_rotation: Rotation | None = None,
        cache: CoreState | None = None,
        kv_prefix: Tensor | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Attend from x [B, N, d_model] to `context` [B, M, d_model], or to x itself without one.

        Arguments:
            x: float [B, N, d_model].
            context: float [B, M, d_model], or the state that `cache_context` made of it; None: self-attention.
            key_mask: bool [B, M], True at keys that may be attended to.
            causal: let each token attend to itself and earlier ones alone.
            rotation: rotary angles of x's positions; key_rotation: those of a context's, None: those of x.
            cache: state of self-attention while decoding; x is a whole prompt if it is empty, else one token.
            kv_prefix: [B, num_kv_heads, P, D], used as both keys and values of the first P positions.
            documents: of x's tokens, for self-attention: a token attends to its own document alone.
        Returns [B, N, d_model].
        """
        q = self.q_norm(self._split_heads(self.to_q(x)))  # [B, H, N, D]
        if rotation is not None:
            q = rotate(q, rotation)
        if isinstance(context, CoreState):
            return self._join_heads(context.attend(q))
        turned = rotation if key_rotation is None else key_rotation
        k, v = self._project_keys_values(x if context is None else context, turned)  # [B, num_kv_heads, M, D] each
        if kv_prefix is not None:
            slots = kv_prefix.shape[2]
            k, v = (torch.cat([kv_prefix.to(part.dtype), part[:, :, slots:]], 2) for part in (k, v))
        if cache is not None:
            cache.update(k, v, key_mask)
            if x.shape[1] == 1:
                return self._join_heads(cache.attend(q))
        groups = self.num_heads // self.num_kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if documents is None:
            heads = self.core(q, k, v, key_mask=key_mask, causal=causal)
        elif getattr(self.core, "takes_documents", False):
            heads = self.core(q, k, v, key_mask=key_mask, causal=causal, documents=documents)
        else:
            heads = documents.attend_apart(self.core, q, k, v, key_mask=key_mask, causal=causal)
        del q, k, v  # most of the memory at a million tokens
        return self._join_heads(heads)

    def new_state(self, capacity: int) -> CoreState:
        """Return an empty state for decoding; a kv cache reserves `capacity` positions after the prompt."""
        return make_core_state(self.core, capacity)

    def cache_context(self, context: Tensor, key_mask: Tensor | None = None) -> CoreState:
        """Compute the keys and values of a context [B, M, d_model] once; pass them to `forward` as `context`.

        `key_mask` bool [B, M] is True at keys that may be attended to.
        """
        state = self.new_state(capacity=0)
        state.update(*self._project_keys_values(context, None), key_mask)
        return state

    def _project_keys_values(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        k = self.k_norm(self._split_heads(self.to_k(x)))
        return (k if rotation is None else rotate(k, rotation)), self._split_heads(self.to_v(x))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [B, N, heads * D] to [B, heads, N, D]

    def _join_heads(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.dropout(self.to_out(heads.transpose(1, 2).flatten(2)))  # [B, H, N, D] to [B, N, d_model]
        return joined
