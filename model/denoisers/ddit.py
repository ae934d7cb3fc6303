"""SEDD's diffusion transformer (Lou et al. 2024): every layer is modulated by what the network is told.

adaLN with zero-initialised gates is from Peebles and Xie 2022 (DiT, arXiv 2212.09748). Attention is PyTorch's own.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.denoisers.embeddings import Told
from model.position import Rotation, rotary_angles, rotate


class Modulation(nn.Module):
    """`parts` tensors [B, 1 or L, d_model] from what is told; zero at first, so that a layer starts as the identity."""

    def __init__(self, cond_dim: int, d_model: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(cond_dim, parts * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, told: Tensor) -> tuple[Tensor, ...]:
        """Shifts, scales and gates, in the order that the layer asks for."""
        modulation: Tensor = self.linear(F.silu(told))
        return modulation.chunk(self.parts, dim=-1)


class SelfAttention(nn.Module):
    """Softmax attention with rotary positions, by PyTorch's own kernels."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.to_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """Map x [B, L, d_model] to the same shape; mask bool [B, 1, 1, L]."""
        batch, length, width = x.shape
        heads = self.to_qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, L, head_dim]
        out = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, attn_mask=mask)
        projected: Tensor = self.to_out(out.transpose(1, 2).reshape(batch, length, width))
        return projected


class DDiTLayer(nn.Module):
    """Self-attention and feed-forward layer, each shifted, scaled and gated by what is told."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float, cond_dim: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(d_model, bias=False)
        self.attention = SelfAttention(d_model, num_heads)
        self.norm_feed_forward = nn.LayerNorm(d_model, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff * d_model), nn.GELU(approximate="tanh"), nn.Linear(d_ff * d_model, d_model)
        )
        self.modulation = Modulation(cond_dim, d_model, 6)

    def forward(self, x: Tensor, told: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """Map x [B, L, d_model] to the same shape; mask bool [B, 1, 1, L]."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation(told)
        attended: Tensor = self.attention(self.norm_attention(x) * (1 + scale) + shift, rotation, mask)
        x = x + gate * F.dropout(attended, self.dropout, self.training)
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
        self.told = Told(config, cond_dim, constant=True)
        self.layers = nn.ModuleList(
            DDiTLayer(width, config.num_heads, config.d_ff, config.dropout, cond_dim) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(width, bias=False)
        self.final_modulation = Modulation(cond_dim, width, 2)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x_t: Tensor, sigma: Tensor | None = None, *, mask: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens."""
        ids = x_t if mask is None else x_t.masked_fill(~mask, 0)
        x, told = self.embedding(ids), self.told(x_t, sigma, cond)
        rotation = rotary_angles(x.shape[1], self.head_dim, x.device)
        keys = None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]  # never an empty row
        for layer in self.layers:
            x = layer(x, told, rotation, keys)
        shift, scale = self.final_modulation(told)
        out: Tensor = self.head(self.final_norm(x) * (1 + scale) + shift)
        return out
