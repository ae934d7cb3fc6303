"""Backbone `averaging`, a minimal denoising network: each token sees its embedding and the mean of all embeddings."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_backbone


class AveragingConfig(StrictModel):
    """Keys of `backbone: {type: averaging, ...}`; other keys are errors of the config."""

    width: Annotated[int, Field(gt=0, le=4096)] = 32
    """Width of the embeddings. [channels]"""


@register_backbone("averaging", config=AveragingConfig)
def build(config: Any, vocab_size: int) -> Any:
    """Build the network; torch is imported here, so that checking a config stays fast."""
    import torch
    from torch import nn

    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocab_size, config.width)
            self.inner = nn.Sequential(nn.Linear(2 * config.width, config.width), nn.GELU())
            self.head = nn.Linear(config.width, vocab_size)

        def forward(self, x_t: Any, sigma: Any) -> Any:
            x = self.embedding(x_t)  # [B, L, width]
            mean = x.mean(1, keepdim=True).expand_as(x)
            return self.head(self.inner(torch.cat([x, mean], -1)))  # [B, L, vocab_size]

    return Averaging()
