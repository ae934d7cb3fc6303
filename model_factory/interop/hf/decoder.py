"""A decoder as a causal language model of transformers, whose `generate` uses our decoding state."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from model.attention.decoding_state import DecodingState
from model.transformer.inputs import InputError, describe
from model_factory.interop.hf.base import ModelFactoryModel
from model_factory.interop.hf.config import DecoderHubConfig


class StateCache(Cache):
    """A `DecodingState` as the `past_key_values` of transformers: sums of linear layers, kv caches of the others."""

    is_compileable = False

    def __init__(self, state: DecodingState) -> None:
        super().__init__(layers=[])
        self.state = state

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens of the longest row so far."""
        return self.state.longest

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return -1: the state has no bound."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` int64 [B']; the beams of a row share its context."""
        self.state.select(beam_idx, context=False)

    def crop(self, max_length: int) -> None:
        """Raise InputError: sums cannot forget a token, so assisted decoding and contrastive search are impossible."""
        raise InputError(
            "this model's decoding state cannot be cropped, so assisted decoding and contrastive search do not work; "
            "use greedy decoding, sampling or beam search"
        )


def refuse_other_caches(cache: object) -> None:
    """Raise InputError for a cache of transformers, which cannot hold the state of linear attention."""
    if cache is not None and not isinstance(cache, StateCache):
        raise InputError(
            f"past_key_values is a {type(cache).__name__}; this model makes its own decoding state: leave it out, and "
            "leave out cache_implementation"
        )


def read_attention_mask(mask: Tensor | None) -> Tensor | None:
    """Return a mask of transformers as bool [B, N], None if every token is real; raise InputError for 4 dimensions."""
    if mask is None:
        return None
    if mask.dim() != 2:
        raise InputError(f"attention_mask must be [B, N], 1 at real tokens; got {describe(mask)}")
    real = mask.bool()
    return None if not torch.compiler.is_compiling() and bool(real.all()) else real


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of labels int64 [B, N] under logits [B, N, V], in nats; -100 is not counted."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def _next_token_loss(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """Return the cross-entropy of the labels, each predicted at the position before it, which must be a real token."""
    after = labels[:, 1:]
    return cross_entropy(logits[:, :-1], after if mask is None else after.masked_fill(~mask[:, :-1], -100))


class ModelFactoryForCausalLM(ModelFactoryModel, GenerationMixin):
    """A `PerformerDecoder` with the interface of transformers; raises ValueError for one that takes no tokens."""

    config_class = DecoderHubConfig
    _supports_cache_class = True

    def __init__(self, config: DecoderHubConfig, network: nn.Module | None = None) -> None:
        if config.vocab_size is None:
            raise ValueError("this decoder has no vocab_size, so it is no language model")
        super().__init__(config, network)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> Any:
        """Return the token embedding."""
        return self.network.input.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.network.input.embedding = value

    def get_output_embeddings(self) -> Any:
        """Return the head; None if the token embedding is the head too."""
        return self.network.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits [B, N, V] of tokens int [B, N]; with a state, those of the last token alone, [B, 1, V].

        `attention_mask` [B, N] is 1 at real tokens, with padding on either side; positions count real tokens. `labels`
        int64 [B, N] give a loss in nats per token. Raises InputError.
        """
        refuse_other_caches(past_key_values)
        if input_ids is None or inputs_embeds is not None:
            raise InputError("this model takes input_ids; inputs_embeds are not supported")
        mask = None if past_key_values is not None else read_attention_mask(attention_mask)
        if past_key_values is not None:
            logits = self.network.step(input_ids[:, -1:], past_key_values.state)[:, None]
        elif use_cache and not self.training and labels is None:
            last, state = self.network.start(input_ids, None, mask)
            logits, past_key_values = last[:, None], StateCache(state)
        else:
            logits = self._all_logits(input_ids, mask)
        loss = None if labels is None else _next_token_loss(logits, labels, mask)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output.to_tuple() if return_dict is False else output

    def _all_logits(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits of every token; rows padded on the left have the positions of the row alone."""
        if mask is None or torch.compiler.is_compiling() or bool(mask[:, 0].all()):
            out: Tensor = self.network(input_ids, mask=mask)
            return out
        # Positions begin at the first real token, so the rows are moved to the left and back.
        order = (~mask).byte().argsort(dim=1, stable=True)
        moved: Tensor = self.network(input_ids.gather(1, order), mask=mask.gather(1, order))
        back = order.argsort(dim=1)
        return moved.gather(1, back[..., None].expand_as(moved))

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: StateCache | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the arguments of the next call of `forward`: the prompt [B, N], then one token at a time."""
        refuse_other_caches(past_key_values)
        if options.get("inputs_embeds") is not None:
            raise InputError("this model takes input_ids; inputs_embeds are not supported")
        ids = input_ids if past_key_values is None else input_ids[:, -1:]
        kept = {"past_key_values": past_key_values, "use_cache": options.get("use_cache", True)}
        return {"input_ids": ids, "attention_mask": attention_mask, **kept}
