"""Multi-head attention over a sequence or over a context, around a core from `model.attention_core`."""

from torch import Tensor, nn

from model.attention_core import make_core
from model.position import Rotation, rotate
from model.types import PerformerParams


class MultiHeadAttention(nn.Module):
    """Projections to heads, the core and the projection back.

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
        self.core = make_core(params)
        self.to_out = nn.Linear(params.d_model, params.d_model)
        self.dropout = nn.Dropout(params.dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Attend from x [B, N, d_model] to `context` [B, M, d_model], or to x itself without one.

        `key_mask` bool [B, M] is True at keys that may be seen; `rotation` is of the positions 0..N-1, for
        self-attention. Returns [B, N, d_model].
        """
        keys = x if context is None else context
        q = self.q_norm(self._heads(self.to_q(x)))  # [B, H, N, D]
        k = self.k_norm(self._heads(self.to_k(keys)))  # [B, num_kv_heads, M, D]
        v = self._heads(self.to_v(keys))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        groups = self.num_heads // self.num_kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out = self.core(q, k, v, key_mask=key_mask, causal=causal)  # [B, H, N, D]
        joined: Tensor = self.dropout(self.to_out(out.transpose(1, 2).flatten(2)))
        return joined

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [B, N, heads * D] to [B, heads, N, D]
