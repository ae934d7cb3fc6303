"""SEDD's diffusion transformer (Lou et al. 2024): every layer is modulated by the conditioning.

adaLN with zero-initialised gates is from Peebles and Xie 2022 (DiT, arXiv 2212.09748). Attention is PyTorch's SDPA.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention.documents import Documents
from model.attention.rotary import Rotation, rotary_angles, rotate, rotation_at
from model.denoisers.blocks import Blocks, KeyValue
from model.denoisers.context import SourceEncoder
from model.denoisers.embeddings import ConditioningEmbedding
from model.denoisers.local import look_at_neighbours, make_local
from model.head_loss import HeadWeights, head_weights
from model.norms import LayerNorm
from model.transformer.inputs import check_context

Before = Callable[[Tensor, Tensor], KeyValue]
"""Function that prepends the cached keys and values of earlier tokens."""


class Modulation(nn.Module):
    """adaLN: `parts` tensors [B, 1 or L, d_model]; zero-initialised, so that a layer starts as the identity."""

    def __init__(self, cond_dim: int, d_model: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(cond_dim, parts * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cond_emb: Tensor) -> tuple[Tensor, ...]:
        """Return shifts, scales and gates [B, 1 or L, d_model] of an activated `cond_emb` [B, 1 or L, cond_dim]."""
        modulation: Tensor = self.linear(cond_emb)
        return modulation.chunk(self.parts, dim=-1)


class SelfAttention(nn.Module):
    """Softmax attention with rotary positions, by PyTorch's kernels."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.to_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None, before: Before | None = None) -> Tensor:
        """Map x [B, L, d_model] to the same shape; mask bool [B or 1, 1, L or 1, keys]; `before` adds cached keys."""
        batch, length, width = x.shape
        heads = self.to_qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, L, head_dim]
        q, k = rotate(q, rotation), rotate(k, rotation)
        if before is not None:
            k, v = before(k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        projected: Tensor = self.to_out(out.transpose(1, 2).reshape(batch, length, width))
        return projected


class CrossAttention(nn.Module):
    """Softmax attention to a context, with its own norm and rotary positions on both sides.

    In a row of masks alone, the distances to the context's positions are all that tells one position from another:
    attention among equal tokens gives all of them the same output.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = LayerNorm(d_model, bias=False)
        self.to_q = nn.Linear(d_model, d_model, bias=False)
        self.to_kv = nn.Linear(d_model, 2 * d_model, bias=False)
        self.to_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, context: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """Return what x [B, L, d_model] reads in context [B, M, d_model], x's shape; mask bool [B, M] is True at tokens.

        `rotation` is of x's positions.
        """
        q = rotate(self._split(self.to_q(self.norm(x))), rotation)
        k, v = map(self._split, self.to_kv(context).chunk(2, -1))
        k = rotate(k, rotary_angles(k.shape[2], k.shape[3], k.device))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_attention_mask(mask, None))
        read: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return read

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # [B, N, width] to [B, heads, N, head_dim]


class DDiTLayer(nn.Module):
    """Self-attention and feed-forward layer, each shifted, scaled and gated by the conditioning.

    With `reads_context` a layer attends to a context in between.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, dropout: float, cond_dim: int, *, reads_context: bool = False
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_attention = LayerNorm(d_model, bias=False)
        self.attention = SelfAttention(d_model, num_heads)
        self.norm_feed_forward = LayerNorm(d_model, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff * d_model), nn.GELU(approximate="tanh"), nn.Linear(d_ff * d_model, d_model)
        )
        self.modulation = Modulation(cond_dim, d_model, 6)
        self.cross_attention = CrossAttention(d_model, num_heads) if reads_context else None

    def forward(
        self,
        x: Tensor,
        cond_emb: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        before: Before | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Map x [B, L, d_model] to the same shape; mask and `before` as in SelfAttention, context as in CrossAttention."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation(cond_emb)
        attended: Tensor = self.attention(self.norm_attention(x) * (1 + scale) + shift, rotation, mask, before)
        x = x + gate * F.dropout(attended, self.dropout, self.training)
        if self.cross_attention is not None:
            assert context is not None
            x = x + F.dropout(self.cross_attention(x, context, rotation, context_mask), self.dropout, self.training)
        fed: Tensor = self.feed_forward(self.norm_feed_forward(x) * (1 + scale_ff) + shift_ff)
        out: Tensor = x + gate_ff * F.dropout(fed, self.dropout, self.training)
        return out


class DDiT(nn.Module):
    """`forward(x_t, sigma)`: embedding, layers, a last modulated norm and a zero-initialised head."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        width, cond_dim = config.d_model, config.cond_dim
        self.head_dim = width // config.num_heads
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.local = make_local(config, width)
        self.told = ConditioningEmbedding(config, cond_dim, constant=True)
        reads = config.get("encoder") is not None
        self.source = SourceEncoder(config, width) if reads else None
        layers = [
            DDiTLayer(width, config.num_heads, config.d_ff, config.dropout, cond_dim, reads_context=reads)
            for _ in range(config.num_layers)
        ]
        self.layers = nn.ModuleList(layers)
        if config.get("init") == "neighbours":
            for layer in layers:
                look_at_neighbours(layer.attention.to_qkv, layer.modulation.linear.bias[:width], config.num_heads)
        self.final_norm = LayerNorm(width, bias=False)
        self.final_modulation = Modulation(cond_dim, width, 2)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        blocks: Blocks | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L], the time with `time_embedding: time`.

        mask is bool, True at real tokens: [B, L], or with the P of a block cache in front [B, P + L]. documents
        int [B, L] numbers the documents of packed rows; `blocks` hold those of a blockwise model. context [B, M, width] is
        what `source` made of a source, with context_mask bool [B, M].
        """
        given: dict[str, Any] = {"mask": mask, "cond": cond, "blocks": blocks, "documents": documents}
        out: Tensor = self.head(self.hidden(x_t, sigma, **given, context=context, context_mask=context_mask))
        return out

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the head over what `hidden` returns; None if it is adapted."""
        return head_weights(self.head)

    def hidden(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        blocks: Blocks | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the states [B, L, d_model] that the head maps to logits; arguments as in `forward`."""
        check_context(context, x_t.shape[0], self.final_norm.normalized_shape[0], wanted=self.source is not None)
        real = None if mask is None else mask[:, mask.shape[1] - x_t.shape[1] :]
        ids = x_t if real is None else x_t.masked_fill(~real, 0)
        x, cond_emb = self.embedding(ids), self.told(x_t, sigma, cond)
        cond_emb = cond_emb if self.told.is_activated else F.silu(cond_emb)
        if self.local is not None:
            x = self.local(x, real, documents)
        positions, attend = torch.arange(x.shape[1], device=x.device), None
        if documents is not None:
            apart = Documents(documents)
            positions, attend = apart.positions, apart.same
        if blocks is not None:
            positions, attend = blocks.places, blocks.attend
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        rotation = rotation_at(positions if positions.dim() == 1 else positions[:, None], self.head_dim, dtype=exact)
        keys = _attention_mask(mask, attend)
        for index, layer in enumerate(self.layers):
            before = None if blocks is None or blocks.cache is None else partial(blocks.cache.before, index)
            x = layer(x, cond_emb, rotation, keys, before, context, context_mask)
        shift, scale = self.final_modulation(cond_emb)
        states: Tensor = self.final_norm(x) * (1 + scale) + shift
        return states


def _attention_mask(mask: Tensor | None, attend: Tensor | None) -> Tensor | None:
    """Combine the masks of real tokens [B, keys] and of blocks or documents, [L, keys] or [B, L, keys].

    Return bool [B or 1, 1, L or 1, keys].

    Padding that may attend to nothing attends to everything, as a softmax over no keys is NaN.
    """
    if mask is None:
        return None if attend is None else attend.unsqueeze(-3) if attend.dim() == 3 else attend[None, None]
    allowed = mask[:, None] if attend is None else mask[:, None] & attend
    return (allowed | ~allowed.any(-1, keepdim=True))[:, None]
