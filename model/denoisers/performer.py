"""The Performer as a denoiser: an encoder, softmax or linear, over tokens plus what it is told."""

from typing import Any

from torch import Tensor, nn

from model.denoisers.embeddings import Told
from model.transformer import PerformerEncoder
from model.types import PerformerParams


class PerformerDenoiser(nn.Module):
    """`forward(x_t, sigma)`: token embeddings plus the embedding of sigma, through an encoder, to logits."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        keys = {key: config[key] for key in PerformerParams.model_fields if key in config}
        params = PerformerParams(**{**keys, "vocab_size": vocab_size})
        self.encoder = PerformerEncoder(params)
        self.told = Told(config, params.d_model)

    def forward(
        self, x_t: Tensor, sigma: Tensor | None = None, *, mask: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens."""
        assert self.encoder.input.embedding is not None
        ids = x_t if mask is None else x_t.masked_fill(~mask, 0)
        x = self.encoder.input.embedding(ids) + self.told(x_t, sigma, cond)
        out: Tensor = self.encoder(x, mask)
        return out
