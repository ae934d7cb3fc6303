"""Latent part, the pooler `sharp_mean`: a mean over tokens that favours large values of each channel."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_latent_pooler


class SharpMeanConfig(StrictModel):
    """Keys of `pooling: {type: sharp_mean, ...}`."""

    sharpness: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weights are softmax(sharpness * value) over tokens: 0 is the mean, a high one close to the maximum. [1]"""


@register_latent_pooler("sharp_mean", config=SharpMeanConfig)
def build(config: Any, width: int, pretrained: Any) -> Any:
    """Build the pooler; `pretrained`, the layers of a pretrained backbone's own pooler, is not used."""
    from torch import nn

    class SharpMean(nn.Module):
        def forward(self, hidden: Any, mask: Any) -> Any:
            logits = (config.sharpness * hidden).masked_fill(~mask[..., None], -1e9)  # [B, N, width]
            return (logits.softmax(1) * hidden).sum(1)  # [B, width]

    return SharpMean()
