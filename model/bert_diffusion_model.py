"""BERT as a denoiser with Hugging Face's weights and interface, conditioned on the time of the noise; its factory.

`model.denoisers.bert` puts it into a discrete diffusion model, as the backbone `bert`.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from model.bert_layers import ModulatedBertModel
from model.hub import load_from_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOLECULES_TOKENIZER = "seyonec/ChemBERTa-zinc-base-v1"
TimeInjection = Literal["output", "input", "adaln"]


class BertDiffusionModel(BertPreTrainedModel):  # type: ignore[misc]
    """BERT conditioned on the time: `forward(input_ids, timestep_embeds=...)` returns hidden states [B, L, hidden].

    `time_injection` (else `config.time_injection`, else "output") is where the time embedding is injected:
        output: added to the last hidden states, as in PolyDiff, so that attention does not depend on it.
        input: added to the word embeddings.
        adaln: shifts, scales and gates both halves of every layer (Peebles and Xie 2022), initially by zero.
    Weights of a saved BertModel, BertForMaskedLM, ... load by `from_pretrained`. Missing weights start so that the
    hidden states are BERT's own without a time, and under adaln with any time.
    Raises ValueError for another time_injection, and for a config of a causal BERT (`is_decoder`).
    """

    def __init__(
        self, config: BertConfig, time_injection: TimeInjection | None = None, add_pooling_layer: bool = True
    ) -> None:
        config = copy.deepcopy(config)
        config.time_injection = time_injection or getattr(config, "time_injection", None) or "output"
        if config.time_injection not in get_args(TimeInjection):
            fitting = ", ".join(get_args(TimeInjection))
            raise ValueError(f"time_injection must be one of {fitting}; got {config.time_injection!r}")
        if config.is_decoder:
            raise ValueError(
                "a causal BERT cannot denoise, since a token must attend to later ones; set is_decoder=False"
            )
        super().__init__(config)
        bert = ModulatedBertModel if config.time_injection == "adaln" else BertModel
        self.bert = bert(config, add_pooling_layer=add_pooling_layer)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        timestep_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Compute hidden states of tokens, conditioned on the time.

        Arguments:
            input_ids: int [B, L]; or inputs_embeds, float [B, L, hidden], instead.
            attention_mask: [B, L], 1 or True at real tokens; token_type_ids and position_ids: int [B, L].
            timestep_embeds: [B, hidden], or [B, L, hidden] if the time differs by token; None: no time.
            output_attentions, output_hidden_states: also return these of every layer.
            return_dict: False returns a tuple; None: the value of the config.
        `last_hidden_state` is [B, L, hidden], `pooler_output` [B, hidden], BERT's own. Raises ValueError unless the
        last dimension of timestep_embeds is the hidden size and exactly one of input_ids and inputs_embeds is given.
        """
        time_emb = self._check_timestep_embeds(timestep_embeds)
        injection = self.config.time_injection
        if time_emb is not None and injection == "input":
            if inputs_embeds is None and input_ids is not None:
                inputs_embeds, input_ids = self.bert.embeddings.word_embeddings(input_ids), None
            inputs_embeds = inputs_embeds + time_emb if inputs_embeds is not None else None
        as_dict = self.config.return_dict if return_dict is None else return_dict
        weights = self.config.output_attentions if output_attentions is None else output_attentions
        with self._eager_attention(bool(weights)):
            outputs = self.bert(
                input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                output_attentions=weights,
                output_hidden_states=output_hidden_states,
                return_dict=True,
                **({"timestep_embeds": time_emb} if injection == "adaln" else {}),
            )
        if time_emb is not None and injection == "output":
            outputs.last_hidden_state = outputs.last_hidden_state + time_emb
        return outputs if as_dict else outputs.to_tuple()

    def get_embedding_layer(self) -> nn.Module:
        """Return BERT's embeddings: `word_embeddings`, `position_embeddings`, `token_type_embeddings`, norm."""
        embeddings: nn.Module = self.bert.embeddings
        return embeddings

    def embed_timesteps(self, timesteps: Tensor) -> Tensor:
        """Compute sinusoidal embeddings (Vaswani et al. 2017) [B, hidden] of timesteps [B].

        Timesteps go from 0 to `config.diffusion_steps` (100 if unset) and are rescaled to 0..1000; cosines come first.
        Use the result as `timestep_embeds`; it has no parameters.
        """
        half = self.config.hidden_size // 2
        scaled = 1000.0 * timesteps.double() / getattr(self.config, "diffusion_steps", 100)
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float64) / half)
        angles = scaled[:, None] * rates
        features = torch.cat([angles.cos(), angles.sin()], -1).to(self.dtype)
        return nn.functional.pad(features, (0, self.config.hidden_size - 2 * half))

    def _check_timestep_embeds(self, timestep_embeds: Tensor | None) -> Tensor | None:
        """Return the time embedding as [B, 1 or L, hidden]; raise ValueError for another shape."""
        if timestep_embeds is None:
            return None
        hidden = self.config.hidden_size
        if timestep_embeds.dim() not in (2, 3) or timestep_embeds.shape[-1] != hidden:
            raise ValueError(
                f"timestep_embeds must be [B, {hidden}] or [B, L, {hidden}]; got {list(timestep_embeds.shape)}"
            )
        return timestep_embeds[:, None] if timestep_embeds.dim() == 2 else timestep_embeds

    @contextmanager
    def _eager_attention(self, needed: bool) -> Iterator[None]:
        """Switch to eager attention, the only one that returns its weights, if they are `needed`."""
        usual = self.config._attn_implementation
        if not needed or usual == "eager":
            yield
            return
        self.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.set_attn_implementation(usual)


def build_medium_bert_diffusion_model(
    tokenizer: "PreTrainedTokenizerBase | None" = None, diffusion_steps: int = 100
) -> "tuple[BertDiffusionModel, PreTrainedTokenizerBase]":
    """Build a `BertDiffusionModel` of the size that PolyDiff calls medium, for molecules; return it with its tokenizer.

    It has width 512, 6 layers of 8 heads, feed-forward layers of width 2048, and 512 positions. `tokenizer` is from
    Hugging Face or this toolkit; None: that of ChemBERTa, from the hub or the cache.
    `diffusion_steps` is stored in `model.config`, for `model.embed_timesteps`.
    Raises ValueError for fewer than one diffusion step, HubError (an OSError) if the tokenizer cannot be loaded.
    """
    if diffusion_steps < 1:
        raise ValueError(f"diffusion_steps must be at least 1; got {diffusion_steps}")
    if tokenizer is None:
        from transformers import AutoTokenizer

        remedy = "pass a tokenizer: build_medium_bert_diffusion_model(tokenizer=...)"
        tokenizer = load_from_hub(AutoTokenizer.from_pretrained, MOLECULES_TOKENIZER, "tokenizer", remedy)
    pad = getattr(tokenizer, "pad_token_id", None)
    config = BertConfig(
        vocab_size=len(tokenizer) if hasattr(tokenizer, "__len__") else tokenizer.vocab_size,  # with added tokens
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=512,
        pad_token_id=pad,
        diffusion_steps=diffusion_steps,
    )
    return BertDiffusionModel(config), tokenizer
