"""Pretrained language models as denoisers: encoders as they are, decoders made to see both ways.

Decoders are adapted as DiffuLLaMA (Gong et al. 2024, arXiv 2410.17891) and Dream (Ye et al. 2025, arXiv 2508.15487) do:
attention is full, and the logits of a token are those that the network gives at the token before it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from model.denoisers.embeddings import Told
from model.denoisers.pretrained import (
    PretrainedError,
    check_sees_later_tokens,
    full_attention,
    load_language_model,
    mask_token_of,
    see_both_ways,
)


class HuggingFaceDenoiser(nn.Module):
    """`forward(x_t, sigma)`: a pretrained model over its own vocabulary, whose states are the data tokens.

    The mask, the process's last state, has an embedding of its own beside the model's: at first that of the mask of the
    model's tokenizer, else the mean of all tokens'. What the network is told is added to the embeddings, zero at first.
    Raises HubError where nothing can be loaded, PretrainedError where the vocabulary or the architecture does not fit.
    """

    trained_beside_adapters = ("mask_embedding", "told")
    """Parts that are new, and so learn even where adapters freeze the rest."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        name = f"backbone hugging_face: {config.path}"
        self.model, kind = load_language_model(config.path, config.adapt)
        self.shifted = kind == "causal"
        see_both_ways(self.model)
        self.num_tokens: int = self.model.config.vocab_size
        _check_sizes(name, self.model, config)
        weight = self.model.get_input_embeddings().weight
        self.mask_embedding: nn.Parameter | None = None
        if vocab_size > self.num_tokens:
            self.mask_embedding = nn.Parameter(_mask_embedding(config.path, weight))
        self.told: Told | None = None
        check_sees_later_tokens(self, self.num_tokens, name)
        if config.time_conditioning or config.get("condition"):
            self.told = Told(config, weight.shape[1])
            _silence(self.told)

    def forward(
        self, x_t: Tensor, sigma: Tensor | None = None, *, mask: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens.

        The mask's own logit is 0: no objective reads it.
        """
        x = self._embedded(x_t if mask is None else x_t.masked_fill(~mask, 0))
        if self.told is not None:
            x = x + self.told(x_t, sigma, cond)
        seen = None if mask is None else mask | ~mask.any(1, keepdim=True)  # never an empty row
        if self.shifted:
            logits: Tensor = self.model(inputs_embeds=x, attention_mask=full_attention(seen, x)).logits
            logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)  # the first token has none before it
        else:
            logits = self.model(inputs_embeds=x, attention_mask=seen if seen is None else seen.long()).logits
        return logits if self.mask_embedding is None else nn.functional.pad(logits, (0, 1))

    def _embedded(self, ids: Tensor) -> Tensor:
        """Embeddings [B, L, width] of states int [B, L]: the model's own, and that of the mask."""
        table = self.model.get_input_embeddings()
        if self.mask_embedding is None:
            own: Tensor = table(ids)
            return own
        masked = ids == self.num_tokens
        return torch.where(masked[..., None], self.mask_embedding, table(ids.masked_fill(masked, 0)))


def _check_sizes(name: str, model: Any, config: Any) -> None:
    """Raise PretrainedError unless the process's data tokens are the model's, and its positions suffice."""
    tokens, given = model.config.vocab_size, config.num_tokens
    if given != tokens:
        own = f"tokenizer: {{type: hugging_face, path: {config.path}}}"
        raise PretrainedError(
            f"{name} has a vocabulary of {tokens} tokens, and the model's section one of {given}; "
            + (
                f"set model.vocab_size: {tokens}, with the model's own {own}"
                if given < tokens
                else f"use its own {own}"
            )
        )
    places = getattr(model.config, "max_position_embeddings", None)
    tables = (
        m for key, m in model.named_modules() if key.endswith("position_embeddings") and hasattr(m, "padding_idx")
    )
    padding = next((table.padding_idx for table in tables), None)
    if places is not None and padding is not None:
        places -= padding + 1  # RoBERTa counts positions from there
    if places is not None and config.get("length") and config.length > places:
        raise PretrainedError(f"{name} has {places} positions, and sequences {config.length} tokens; shorten length")


def _mask_embedding(path: str, weight: Tensor) -> Tensor:
    """The embedding [width] that the mask starts from, given those of all tokens [V, width]."""
    token = None if active_fake_mode() is not None else mask_token_of(path)
    if token is not None and token < len(weight):
        return weight[token].detach().clone()
    return weight.detach().mean(0)


def _silence(told: Told) -> None:
    """Zeros at the end of every branch: at first the network hears nothing, and is the pretrained one."""
    parts = [told.noise.net[-1] if told.noise is not None else None]
    if told.condition is not None:
        parts.append(told.condition.table if told.condition.num_classes is not None else told.condition.net[-1])
    for part in parts:
        for parameter in part.parameters() if part is not None else ():
            nn.init.zeros_(parameter)
