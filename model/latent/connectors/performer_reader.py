"""Our Performer decoder conditioned on a latent; its kv prefix replaces keys and values at P dummy tokens in front."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.attention.decoding_state import DecodingState
from model.latent.checks import check_ids
from model.latent.connectors.hugging_face_reader import slots_of
from model.latent.connectors.injection import DecoderShape, Injected, Injection
from model.transformer.performer import PerformerDecoder
from model.types import PerformerParams


@dataclass
class PerformerTexts:
    """Decoding state of the decoder, and the vector added to the embedding of each further token."""

    state: DecodingState
    embedding: Tensor | None

    def select(self, rows: Tensor, *, context: bool = True) -> None:
        """Select the batch rows `rows` int64 [B']; see `DecodingState.select`."""
        self.state.select(rows, context=context)
        self.embedding = None if self.embedding is None else self.embedding.index_select(0, rows)


class PerformerReader(nn.Module):
    """A Performer decoder of any attention core, and the injection of its latent.

    With the route cross_attention the decoder must have cross-attention.
    """

    def __init__(self, backbone: PerformerDecoder, injection: Injection) -> None:
        super().__init__()
        self.backbone, self.injection = backbone, injection

    @property
    def max_length(self) -> int | None:
        """Return the maximum number of tokens, without the slots in front; None without a limit."""
        limit = self.backbone.params.max_length
        return None if limit is None else limit - slots_of(self.injection)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        assert self.backbone.params.vocab_size is not None
        return self.backbone.params.vocab_size

    def states(self, ids: Tensor, latent: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits [B, N, vocab_size] of ids int [B, N] and a latent [B, latent_size].

        mask bool [B, N] is True at real tokens.
        """
        hidden, head = self.outputs(ids, latent, mask)
        return head(hidden)

    def outputs(
        self, ids: Tensor, latent: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the states [B, N, d_model], and the head that maps such states to logits; arguments as in `states`."""
        injected = self.injection(latent)
        x, mask = self._with_slots(ids, injected, mask)
        hidden = self.backbone.hidden(x, injected.context, mask, kv_prefixes=injected.memory)
        return hidden[:, injected.num_slots :], self.backbone.logits

    def forward(self, ids: Tensor, latent: Tensor, mask: Tensor | None = None) -> Any:
        """Return `states` [B, N, vocab_size] of ids int [B, N] and a latent [B, latent_size]."""
        return self.states(ids, latent, mask)

    def start(self, ids: Tensor, latent: Tensor, mask: Tensor | None, room: int) -> tuple[Tensor, PerformerTexts]:
        """Run prompts int [B, N]; return logits [B, vocab_size] after each row's last token, and the decoding state.

        Padding, where mask bool [B, N] is False, may be on either side of a row.
        """
        injected = self.injection(latent)
        x, mask = self._with_slots(ids, injected, mask)
        if mask is not None and injected.num_slots:
            order = (~mask[:, injected.num_slots :]).byte().argsort(dim=1, stable=True) + injected.num_slots
            order = torch.cat([torch.arange(injected.num_slots, device=ids.device).expand(len(ids), -1), order], 1)
            x, mask = x.gather(1, order.unsqueeze(-1).expand_as(x)), mask.gather(1, order)
        logits, state = self.backbone.start(x, injected.context, mask, capacity=room, kv_prefixes=injected.memory)
        return logits, PerformerTexts(state, injected.embedding)

    def step(self, ids: Tensor, state: PerformerTexts) -> Tensor:
        """Run one more token of each row, ids int [B, 1]; return logits [B, vocab_size] and update `state`."""
        return self.backbone.step(self._embed(ids, state.embedding), state.state)

    def _with_slots(self, ids: Tensor, injected: Injected, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return embeddings and mask of the slots and the tokens after them; the dummies of a kv prefix are zeros."""
        x = self._embed(ids if mask is None else ids.masked_fill(~mask, 0), injected.embedding)
        front = [x.new_zeros(len(x), injected.memory[0].shape[2], x.shape[2])] if injected.memory else []
        front += [injected.prompt] if injected.prompt is not None else []
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(x), injected.num_slots), mask], 1)
        return torch.cat([*front, x], 1), mask

    def _embed(self, ids: Tensor, embedding: Tensor | None) -> Tensor:
        table = self.backbone.input.embedding
        assert table is not None
        check_ids(ids, table.num_embeddings)
        x: Tensor = table(ids)
        return x if embedding is None else x + embedding


def shape_of(params: PerformerParams) -> DecoderShape:
    """Return the sizes of a Performer decoder."""
    return DecoderShape(params.d_model, params.num_layers, params.num_kv_heads or params.num_heads, params.head_dim)
