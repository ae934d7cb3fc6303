"""The Performer as a denoiser: an encoder, softmax or linear, over token embeddings plus the conditioning."""

from typing import Any

from torch import Tensor, nn

from model.denoisers.context import SourceEncoder
from model.denoisers.embeddings import ConditioningEmbedding
from model.denoisers.local import make_local
from model.head_loss import HeadWeights
from model.transformer.performer import PerformerEncoder
from model.types import PerformerParams


class PerformerDenoiser(nn.Module):
    """`forward(x_t, sigma)`: token embeddings plus the conditioning, through an encoder, to logits."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        keys = {key: config[key] for key in PerformerParams.model_fields if key in config}
        params = PerformerParams(**{**keys, "vocab_size": vocab_size})
        self.source = None if config.get("encoder") is None else SourceEncoder(config, params.d_model)
        self.encoder = PerformerEncoder(params, cross_attention=self.source is not None)
        self.local = make_local(config, params.d_model)
        self.told = ConditioningEmbedding(config, params.d_model)

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L], True at real tokens.

        documents int [B, L] numbers the documents of packed rows; context [B, M, width] is what `source` made of a source,
        with context_mask bool [B, M].
        """
        given = {"mask": mask, "cond": cond, "documents": documents, "context": context, "context_mask": context_mask}
        return self.encoder.logits(self.hidden(x_t, sigma, **given))

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the head over what `hidden` returns; None if it is adapted."""
        return self.encoder.output_head

    def hidden(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the states [B, L, d_model] that the head maps to logits; arguments as in `forward`."""
        assert self.encoder.input.embedding is not None
        ids = x_t if mask is None else x_t.masked_fill(~mask, 0)
        x = self.encoder.input.embedding(ids)
        if self.local is not None:
            x = self.local(x, mask, documents)
        told = self.told(x_t, sigma, cond).to(x.dtype)
        return self.encoder.hidden(x + told, mask, documents, context, context_mask)
