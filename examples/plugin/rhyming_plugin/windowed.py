"""Attention core `windowed`: softmax attention to the nearest keys only."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_attention


class WindowedConfig(StrictModel):
    """Keys of `attention_type: {type: windowed, ...}`."""

    reach: Annotated[int, Field(ge=1, le=65_536)] = 4
    """A token attends to keys at most reach - 1 positions away. [tokens]"""


@register_attention("windowed", config=WindowedConfig)
def build(params: Any, options: WindowedConfig) -> Any:
    """Build the core of one layer."""
    import torch
    from torch import nn

    class Windowed(nn.Module):
        def forward(self, q: Any, k: Any, v: Any, *, key_mask: Any = None, causal: bool) -> Any:
            queries, keys = q.shape[2], k.shape[2]
            at = torch.arange(keys, device=q.device)
            distance = at[keys - queries :, None] - at  # while decoding, queries are the last positions
            seen = distance.abs() < options.reach  # [N, M]
            if causal:
                seen &= distance >= 0
            if key_mask is not None:
                seen = seen & key_mask[:, None, None, :]  # [B, 1, N, M]
            logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -1e9)
            return (logits.softmax(-1) * seen) @ v  # [B, H, N, D], zero without a visible key

    return Windowed()
