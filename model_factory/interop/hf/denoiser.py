"""A discrete diffusion model as a model of transformers: `forward` denoises, `generate` samples."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput

from model.transformer.inputs import InputError, describe
from model_factory.diffusion.objectives.alignment import ABSENT
from model_factory.interop.hf.base import ModelFactoryModel
from model_factory.interop.hf.config import DenoiserHubConfig
from model_factory.interop.hf.decoder import read_attention_mask


class ModelFactoryDenoiser(ModelFactoryModel):
    """A `DiffusionModel` with the interface of transformers; `network` is the model itself, with its bound and samplers.

    Rows of one that inserts tokens have different lengths: padding is where `attention_mask` is 0, and in samples the
    padding token.
    """

    config_class = DenoiserHubConfig

    def forward(
        self,
        input_ids: Tensor,
        sigma: Tensor | float | None = None,
        attention_mask: Tensor | None = None,
        cond: Tensor | None = None,
        context_ids: Tensor | None = None,
        context_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Return the network's raw output as `logits` [B, L, dim] for noisy tokens int [B, L].

        sigma, [B] or [B, L], is the noise level, needed if the section has time conditioning. `attention_mask` [B, L]
        is 1 at real tokens; cond, context_ids and context_mask are as in our `DiffusionModel`. Under `objective: sedd`
        the output is the log score, else logits of the clean tokens. A model that inserts tokens returns
        [B, L + 1, dim + extra], first of the gap before a row, and needs sigma. Raises InputError.
        """
        source = self.network.encode(context_ids, read_attention_mask(context_mask))
        mask = read_attention_mask(attention_mask)
        if self.network.inserts and mask is not None:
            input_ids, mask = input_ids.masked_fill(~mask, ABSENT), None
        logits = self.network.denoise(input_ids, sigma, mask, cond, **source)
        output = MaskedLMOutput(logits=logits)
        return output.to_tuple() if return_dict is False else output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        max_new_tokens: int | None = None,
        *,
        steps: int = 128,
        sampler: Any = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        frozen: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw token ids int64 [num_samples, L], given prompts int [B, N] at their start.

        L is N + max_new_tokens, or the section's sequence length. `frozen` bool [B, N] marks the tokens of the prompt
        that are kept (default: all), which makes the others holes. steps, sampler, generator and the other options are
        those of our `DiffusionModel.sample`. A model that inserts tokens draws up to L and pads. Raises InputError.
        """
        rows, length = num_samples or 1, self.config.sequence_length
        if input_ids is not None:
            if input_ids.dim() != 2:
                raise InputError(f"input_ids must be prompts, int [B, N]; got {describe(input_ids)}")
            if num_samples is not None and num_samples % len(input_ids):
                raise InputError(f"num_samples {num_samples} is no multiple of the {len(input_ids)} prompts")
            rows = num_samples or len(input_ids)
            repeats = rows // len(input_ids)
            input_ids = input_ids.repeat_interleave(repeats, 0)
            frozen = None if frozen is None else frozen.repeat_interleave(repeats, 0)
        given = 0 if input_ids is None else input_ids.shape[1]
        if max_new_tokens is not None:
            length = given + max_new_tokens
        if length is None:
            raise InputError("the model has no sequence length: pass max_new_tokens")
        found: Tensor = self.network.sample(rows, length, steps, sampler, input_ids, frozen, generator, **options)
        pad = self.config.pad_token_id
        return found if pad is None else found.masked_fill(found == ABSENT, pad)
