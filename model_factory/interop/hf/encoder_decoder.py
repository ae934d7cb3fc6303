"""An encoder-decoder as a sequence-to-sequence model of transformers, whose `generate` uses our decoding state."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from model.transformer.inputs import InputError
from model_factory.interop.hf.base import ModelFactoryModel
from model_factory.interop.hf.config import EncoderDecoderHubConfig
from model_factory.interop.hf.decoder import StateCache, cross_entropy, read_attention_mask, refuse_other_caches


class EncoderView(nn.Module):
    """Call of an encoder as transformers calls one; it holds no parameters, which the model owns."""

    main_input_name = "input_ids"

    def __init__(self, model: "ModelFactoryForSeq2SeqLM") -> None:
        super().__init__()
        self._model = (model,)  # a tuple is not registered as a submodule

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **unused: Any) -> BaseModelOutput:
        """Return `last_hidden_state` [B, M, d_model] of sources int [B, M]."""
        context = self._model[0].network.encode(input_ids, read_attention_mask(attention_mask))
        return BaseModelOutput(last_hidden_state=context)


class ModelFactoryForSeq2SeqLM(ModelFactoryModel, GenerationMixin):
    """An `EncoderDecoderTransformer` with the interface of transformers."""

    config_class = EncoderDecoderHubConfig

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_encoder(self, *unused: Any, **options: Any) -> nn.Module:
        """Return a view of the encoder for `generate`."""
        return EncoderView(self)

    def get_input_embeddings(self) -> Any:
        """Return the token embedding of the encoder; None if the source is features."""
        return self.network.encoder.input.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of the encoder."""
        self.network.encoder.input.embedding = value

    def get_output_embeddings(self) -> Any:
        """Return the head of the decoder; None if its token embedding is the head too."""
        return self.network.decoder.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Return the logits of decoder_input_ids int [B, N] given sources int [B, M], [B, N, V].

        With a state they are those of the last token alone, [B, 1, V]. `labels` int64 [B, N] are the targets without
        their begin token, -100 where they are not counted; they give the decoder's input if that is missing. Masks are
        1 at real tokens. Raises InputError.
        """
        refuse_other_caches(past_key_values)
        if decoder_input_ids is None:
            decoder_input_ids = self._shifted(labels)
        if past_key_values is not None:
            logits = self.network.decoder.step(decoder_input_ids[:, -1:], past_key_values.state)[:, None]
            return self._output(None, logits, past_key_values, encoder_outputs, return_dict)
        if encoder_outputs is None:
            if input_ids is None:
                raise InputError("give input_ids, the sources int [B, M], or encoder_outputs")
            encoder_outputs = self.get_encoder()(input_ids, attention_mask)
        context, context_mask = encoder_outputs[0], read_attention_mask(attention_mask)
        mask = read_attention_mask(decoder_attention_mask)
        decoder = self.network.decoder
        if use_cache and not self.training and labels is None:
            last, state = decoder.start(decoder_input_ids, context, mask, context_mask)
            return self._output(None, last[:, None], StateCache(state), encoder_outputs, return_dict)
        logits = decoder(decoder_input_ids, context, mask, context_mask)
        loss = None if labels is None else cross_entropy(logits, labels)
        return self._output(loss, logits, None, encoder_outputs, return_dict)

    @staticmethod
    def _output(
        loss: Tensor | None, logits: Tensor, cache: Any, encoder_outputs: Any, return_dict: bool | None
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        last = None if encoder_outputs is None else encoder_outputs[0]
        output = Seq2SeqLMOutput(loss=loss, logits=logits, past_key_values=cache, encoder_last_hidden_state=last)
        return output.to_tuple() if return_dict is False else output

    def _shifted(self, labels: Tensor | None) -> Tensor:
        """Return labels int64 [B, N] moved by one token to the right, after the begin token."""
        start = self.config.decoder_start_token_id
        if labels is None or start is None:
            raise InputError("give decoder_input_ids int [B, N], which begin with the begin token, or labels")
        before = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1)
        return before.masked_fill(before == -100, self.config.pad_token_id or 0)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: StateCache | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        decoder_attention_mask: Tensor | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the arguments of the next call of `forward`: `input_ids` [B, N] are those of the decoder."""
        refuse_other_caches(past_key_values)
        return {
            "decoder_input_ids": input_ids if past_key_values is None else input_ids[:, -1:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            "use_cache": options.get("use_cache", True),
        }
