"""An encoder as a model of transformers."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from model.transformer.inputs import InputError
from model_factory.interop.hf.base import ModelFactoryModel
from model_factory.interop.hf.config import EncoderHubConfig
from model_factory.interop.hf.decoder import read_attention_mask


class ModelFactoryEncoder(ModelFactoryModel):
    """A `PerformerEncoder` with the interface of transformers."""

    config_class = EncoderHubConfig

    def get_input_embeddings(self) -> Any:
        """Return the token embedding; None if the input is features."""
        return self.network.input.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.network.input.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> BaseModelOutput | MaskedLMOutput | tuple[Any, ...]:
        """Encode tokens int [B, N], or features float [B, N, width] as `inputs_embeds`.

        `attention_mask` [B, N] is 1 at real tokens. Returns `last_hidden_state` [B, N, d_model], or with a head
        `logits` [B, N, V] and the states as the only entry of `hidden_states`. Raises InputError.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("give either input_ids or inputs_embeds")
        hidden = self.network.hidden(given, read_attention_mask(attention_mask))
        if self.network.has_head:
            output: Any = MaskedLMOutput(logits=self.network.logits(hidden), hidden_states=(hidden,))
        else:
            output = BaseModelOutput(last_hidden_state=hidden)
        return output.to_tuple() if return_dict is False else output
