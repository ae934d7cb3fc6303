"""A decoder of Hugging Face conditioned on a latent, in its embeddings or in front of its tokens.

The route memory is a kv prefix: the attention mask covers P + N positions, and positions of tokens begin at P (as in
Optimus).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from model.attention.decoding_state import align_left
from model.denoisers.pretrained import ends_in_head, without_head
from model.evaluation_mode import evaluation_mode
from model.latent.checks import check_ids, check_length, max_positions_of
from model.latent.connectors.hugging_face import ConnectorError
from model.latent.connectors.injection import DecoderShape, Injected, Injection


@dataclass
class CachedTexts:
    """Decoding state: the KV cache, its mask bool [B, P + N], the length of each row, and the injected latent."""

    cache: Any
    mask: Tensor
    lengths: Tensor
    injected: Injected

    def select(self, rows: Tensor, *, context: bool = True) -> None:
        """Select the batch rows `rows` int64 [B']; `context` is ignored, as every row keeps its own latent."""
        self.cache.reorder_cache(rows)
        self.mask, self.lengths = self.mask.index_select(0, rows), self.lengths.index_select(0, rows)
        given = self.injected
        chosen = [None if part is None else part.index_select(0, rows) for part in (given.embedding, given.context)]
        self.injected = Injected(chosen[0], None, chosen[1], None)


class HuggingFaceReader(nn.Module):
    """A decoder of Hugging Face and the injection of its latent.

    The first output of `backbone` is logits (with its language head) or hidden states [B, N, ...].
    """

    def __init__(self, backbone: Any, injection: Injection) -> None:
        super().__init__()
        self.backbone, self.injection = backbone, injection
        self.takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
        self._has_last_head: bool | None = None

    @property
    def max_length(self) -> int | None:
        """Return the maximum number of tokens, without the slots in front; None without a limit."""
        limit = max_positions_of(self.backbone.config)
        return None if limit is None else limit - slots_of(self.injection)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        size: int = self.backbone.get_input_embeddings().num_embeddings
        return size

    def states(self, ids: Tensor, latent: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits or hidden states [B, N, ...] of ids int [B, N] and a latent [B, latent_size].

        mask bool [B, N] is True at real tokens.
        """
        injected = self.injection(latent)
        check_length(ids.shape[1], self.max_length, "decoder")
        output, _, _ = self._run(ids, injected, mask, use_cache=False)
        return output[:, output.shape[1] - ids.shape[1] :]

    def outputs(
        self, ids: Tensor, latent: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return states [B, N, ...], and what maps them to those of `states`: the backbone's head where it is the last step."""
        head = self.last_head()
        if head is None:
            return self.states(ids, latent, mask), nn.Identity()
        with without_head(self.backbone):
            return self.states(ids, latent, mask), head

    def last_head(self) -> nn.Module | None:
        """Return the backbone's head if its logits are what it returns, neither capped nor scaled; it is tried once."""
        if self._has_last_head is None and active_fake_mode() is None:
            self._has_last_head = ends_in_head(self.backbone)
        head: nn.Module | None = self.backbone.get_output_embeddings() if self._has_last_head else None
        return head

    def forward(self, ids: Tensor, latent: Tensor, mask: Tensor | None = None) -> Any:
        """Return `states` [B, N, ...] of ids int [B, N] and a latent [B, latent_size]."""
        return self.states(ids, latent, mask)

    def start(self, ids: Tensor, latent: Tensor, mask: Tensor | None, room: int) -> tuple[Tensor, CachedTexts]:
        """Run prompts int [B, N]; return the output [B, ...] of each row's last token, and the decoding state.

        Padding, where mask bool [B, N] is False, may be on either side of a row.
        """
        injected = self.injection(latent)
        if mask is not None:
            ids, mask = align_left(ids, mask)
        lengths = torch.full(ids.shape[:1], ids.shape[1], device=ids.device) if mask is None else mask.sum(1)
        output, cache, seen = self._run(ids, injected, mask, use_cache=True)
        output = output[:, output.shape[1] - ids.shape[1] :]
        last = output[torch.arange(len(ids), device=ids.device), lengths - 1]
        return last, CachedTexts(cache, seen, lengths + injected.num_slots, injected)

    def step(self, ids: Tensor, state: CachedTexts) -> Tensor:
        """Run one more token of each row, ids int [B, 1]; return its output [B, ...] and update `state`."""
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(ids), 1)], 1)
        given: dict[str, Any] = {"inputs_embeds": self._embed(ids, state.injected.embedding)}
        if self.takes_positions:
            given["position_ids"] = state.lengths.unsqueeze(1)
        state.lengths = state.lengths + 1
        output = self._call(given, state.mask, state.injected.context, state.cache, use_cache=True)
        state.cache = output.past_key_values
        last: Tensor = output[0][:, -1]
        return last

    def _run(
        self, ids: Tensor, injected: Injected, mask: Tensor | None, *, use_cache: bool
    ) -> tuple[Tensor, Any, Tensor]:
        """Return the output over soft prompt and tokens, the KV cache, and the mask over slots and tokens."""
        from transformers import DynamicCache, EncoderDecoderCache

        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        x = self._embed(ids.masked_fill(~mask, 0), injected.embedding)
        if injected.prompt is not None:
            x = torch.cat([injected.prompt, x], 1)
        cache: Any = DynamicCache(config=self.backbone.config) if use_cache or injected.memory else None
        for index, slots in enumerate(injected.memory or ()):
            cache.update(slots, slots, index)
        if cache is not None and injected.context is not None:
            cache = EncoderDecoderCache(cache, DynamicCache(config=self.backbone.config))
        seen = torch.cat([mask.new_ones(len(ids), injected.num_slots), mask], 1)
        output = self._call({"inputs_embeds": x}, seen, injected.context, cache, use_cache=cache is not None)
        found: Tensor = output[0]
        return found, output.past_key_values, seen

    def _call(self, given: dict[str, Any], mask: Tensor, context: Tensor | None, cache: Any, *, use_cache: bool) -> Any:
        if context is not None:
            given["encoder_hidden_states"] = context
        return self.backbone(**given, attention_mask=mask.long(), past_key_values=cache, use_cache=use_cache)

    def _embed(self, ids: Tensor, embedding: Tensor | None) -> Tensor:
        table = self.backbone.get_input_embeddings()
        check_ids(ids, table.num_embeddings)
        x: Tensor = table(ids)
        return x if embedding is None else x + embedding


@torch.no_grad()
def check_decodes(reader: HuggingFaceReader, name: str) -> None:
    """Raise ConnectorError unless a decoder takes embeddings, a mask and a KV cache, and is causal."""
    if active_fake_mode() is not None:
        return
    device = next(reader.parameters()).device
    ids = torch.tensor([[0, 1, 2]], device=device) % reader.vocab_size
    latent = torch.zeros(1, reader.injection.latent_size, device=device)
    try:
        with evaluation_mode(reader):
            state = reader.start(ids[:, :2], latent, None, 0)[1]
            stepped, whole = reader.step(ids[:, 2:], state), reader.states(ids, latent)
            earlier = reader.states(ids[:, :2], latent)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConnectorError(
            f"{name} cannot be called as a decoder with a KV cache; use one such as gpt2 or llama ({reason})"
        ) from error
    for one, other in ((stepped, whole[:, -1]), (earlier, whole[:, :2])):
        if not torch.allclose(one, other, atol=1e-3, rtol=1e-2):
            raise ConnectorError(
                f"{name} is not causal, or its KV cache changes its output; use one such as gpt2 or llama"
            )


def slots_of(injection: Injection) -> int:
    """Return the number of positions that an injection takes in front of the tokens."""
    parts = (injection.linear, injection.linear_prompt)
    return injection.num_slots * sum(part is not None for part in parts)


def shape_of(config: Any) -> DecoderShape:
    """Return the sizes of a Hugging Face decoder from its config."""
    if getattr(config, "num_attention_heads", None) is None:
        raise ConnectorError(f"a model of type {config.model_type!r} has no attention; use one such as gpt2 or llama")
    heads: int = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return DecoderShape(
        config.hidden_size, config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, head_dim
    )
