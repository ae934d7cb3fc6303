"""BERT layers with adaLN: shift, scale and gate from an embedding of the time (Peebles and Xie, arXiv 2212.09748)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers import initialization as init
from transformers.models.bert.modeling_bert import BertLayer


class BertModulation(nn.Linear):
    """Shift, scale and gate of attention and of the feed-forward layer, six tensors [B, 1 or L, hidden].

    It is zero at first (`ModulatedBertModel._init_weights`), so the layer starts as BERT's own.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 6 * hidden_size)

    def forward(self, time_emb: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Compute six modulations of the shape of `time_emb` [B, 1 or L, hidden]."""
        return super().forward(F.silu(time_emb)).chunk(6, dim=-1)


class ModulatedBertLayer(BertLayer):  # type: ignore[misc]
    """BERT layer with the same weight names, plus `modulation`.

    Each half computes LayerNorm(x + (1 + gate) f((1 + scale) x + shift)), where BERT's has LayerNorm(x + f(x)).
    """

    def __init__(self, config: BertConfig, layer_idx: int | None = None) -> None:
        super().__init__(config, layer_idx=layer_idx)
        self.modulation = BertModulation(config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        timestep_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map x [B, L, hidden] to the same shape; timestep_embeds [B, 1 or L, hidden]; None: BERT's own layer.

        BERT's encoder passes `encoder_hidden_states` at this position; it is None here.
        """
        if timestep_embeds is None:
            out: Tensor = super().forward(hidden_states, attention_mask, encoder_hidden_states, **kwargs)
            return out
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation(timestep_embeds)
        attended, _ = self.attention.self(hidden_states * (1 + scale) + shift, attention_mask=attention_mask, **kwargs)
        x = _gated(self.attention.output, attended, gate, hidden_states)
        return _gated(self.output, self.intermediate(x * (1 + scale_ff) + shift_ff), gate_ff, x)


class ModulatedBertModel(BertModel):  # type: ignore[misc]
    """BERT with modulated layers, which get `forward(..., timestep_embeds)`, float [B, 1 or L, hidden]."""

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        layers = (ModulatedBertLayer(config, layer_idx=index) for index in range(config.num_hidden_layers))
        self.encoder.layer = nn.ModuleList(layers)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as BERT does, and modulations with zeros."""
        if isinstance(module, BertModulation):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


def _gated(output: nn.Module, inner: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Apply the end of either half of a BERT layer: linear map, dropout, gate, residual sum and norm."""
    ended: Tensor = output.LayerNorm(residual + (1 + gate) * output.dropout(output.dense(inner)))  # type: ignore[operator]
    return ended
