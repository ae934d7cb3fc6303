"""Pretrained language models as denoisers: encoders unchanged, decoders made bidirectional.

Decoders are adapted as DiffuLLaMA (Gong et al. 2024, arXiv 2410.17891) and Dream (Ye et al. 2025, arXiv 2508.15487) do:
attention is bidirectional, and the logits of a token are the network's output at the token before it.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from model.attention.documents import Documents
from model.denoisers.blocks import Blocks
from model.denoisers.context import SourceEncoder
from model.denoisers.cross_attention import AddedCrossAttention, find_begin_token
from model.denoisers.embeddings import ConditioningEmbedding
from model.denoisers.pretrained import (
    PretrainedError,
    check_is_bidirectional,
    ends_in_head,
    find_leak,
    find_mask_token,
    load_language_model,
    make_bidirectional,
    make_full_attention_mask,
    without_head,
)
from model.head_loss import HeadWeights, head_weights
from model.hub import weights_are_replaced
from model.transformer.inputs import check_context


class HuggingFaceDenoiser(nn.Module):
    """`forward(x_t, sigma)`: a pretrained model over its vocabulary, which must be that of the data.

    The mask, the process's last state, has a separate embedding, initialised with the mask token of the model's
    tokenizer, else with the mean of all tokens. The conditioning is added to the embeddings, and is zero at first.
    With an `encoder`, every layer is followed by a cross-attention to the source, whose output is zero at first. In a
    causal model a begin token is then put before each row, as the logits of a row's first token need a token before it.
    Raises HubError if loading fails, PretrainedError if the vocabulary or the architecture does not fit.
    """

    takes_prefix_cache = False
    trained_beside_adapters = ("mask_embedding", "told", "cross_attention")
    """New parts, which are trained even if adapters freeze the rest."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        architecture: dict[str, Any] | None = None if config.path else config.architecture.as_dict()
        name = f"backbone hugging_face: {config.path or config.architecture.model_type}"
        dtype = getattr(torch, config.dtype)
        self.model, kind = load_language_model(config.path, config.adapt, architecture=architecture, dtype=dtype)
        self.is_adapted = kind == "causal"
        self.shifted = self.is_adapted if config.shift is None else bool(config.shift)
        make_bidirectional(self.model)
        self.num_tokens: int = self.model.config.vocab_size
        begins = self.shifted and config.get("encoder") is not None
        self.max_length = _check_sizes(name, self.model, config, begins=begins)
        self.name, self._is_isolated = name, False
        weight = self.model.get_input_embeddings().weight
        self.mask_embedding: nn.Parameter | None = None
        self.mask_token_id: int | None = config.mask_token_id
        self.has_mask = vocab_size > self.num_tokens
        _check_mask(name, self.mask_token_id, self.num_tokens, has_mask=self.has_mask)
        if self.has_mask and self.mask_token_id is None:
            self.mask_embedding = nn.Parameter(_mask_embedding(config.path, weight))
        self.told: ConditioningEmbedding | None = None
        self.source: SourceEncoder | None = None
        self.cross_attention: AddedCrossAttention | None = None
        if architecture is None or not weights_are_replaced():  # else its weights are not set yet
            check_is_bidirectional(self, self.num_tokens, name)
        self._ends_in_head = active_fake_mode() is None and ends_in_head(self.model)
        if config.get("encoder") is not None:
            self.cross_attention = AddedCrossAttention(self.model, name)
            self.source = SourceEncoder(config, self.cross_attention.width)
            self.source.trained_beside_adapters = self.source.new_parts
        if config.time_conditioning or config.get("condition"):
            self.told = ConditioningEmbedding(config, weight.shape[1])
            _zero_output_layers(self.told)

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        blocks: Blocks | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens.

        documents int [B, L] numbers the documents of packed rows; raises PretrainedError if this architecture cannot
        isolate them. `blocks` hold positions and attention of a blockwise model, of all tokens before, too. context
        [B, M, width] is what `source` made of a source, with context_mask bool [B, M]. The logit of the mask is 0: no
        objective uses it; that of a token `mask_token_id` is the lowest number.
        """
        given = (x_t, sigma, mask, cond, documents, blocks, context, context_mask)
        self._check(documents, blocks, context)
        return self._with_mask(self._outputs(*given))

    def hidden(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        blocks: Blocks | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the states [B, L, width] that `output_head` maps to logits; arguments and errors are those of `forward`."""
        self._check(documents, blocks, context)
        with without_head(self.model):
            return self._outputs(x_t, sigma, mask, cond, documents, blocks, context, context_mask)

    @property
    def output_head(self) -> HeadWeights | None:
        """Return the weights of the model's head over what `hidden` returns.

        None if logits are more than its output, such as capped or scaled ones, and for an adapted head.
        """
        found = head_weights(self.model.get_output_embeddings()) if self._ends_in_head else None
        if found is None or not self.has_mask or self.mask_token_id is None:
            return found
        token = torch.arange(len(found.table), device=found.table.device) == self.mask_token_id
        lowest = torch.where(token, torch.finfo(torch.float32).min, 0.0)  # the mask has no probability
        return HeadWeights(found.table, lowest if found.bias is None else found.bias + lowest)

    def _check(self, documents: Tensor | None, blocks: Blocks | None, context: Tensor | None) -> None:
        """Raise PretrainedError for blocks and for documents [B, L] that this architecture does not take."""
        if blocks is not None and self.shifted:
            raise PretrainedError(f"{self.name}: blocks need logits at their own positions; set shift: false")
        if documents is None or self._is_isolated or self.cross_attention is not None or context is not None:
            return
        reason = find_leak(self, self.num_tokens)
        if reason is not None:
            raise PretrainedError(
                f"{self.name} cannot isolate the documents of packed rows ({reason}); set document_ids: false, or "
                "rows: cut, where each row holds one document"
            )
        self._is_isolated = True

    def _outputs(
        self,
        x_t: Tensor,
        sigma: Tensor | None,
        mask: Tensor | None,
        cond: Tensor | None,
        documents: Tensor | None,
        blocks: Blocks | None,
        context: Tensor | None,
        context_mask: Tensor | None,
    ) -> Tensor:
        """Return the model's outputs [B, L, ...] after the checks, without the logit of the mask."""
        if self.cross_attention is not None or context is not None:
            return self._read(x_t, sigma, mask, cond, documents, blocks, context, context_mask)
        return self._run(x_t, sigma, mask, cond, documents, blocks)

    def _read(
        self,
        x_t: Tensor,
        sigma: Tensor | None,
        mask: Tensor | None,
        cond: Tensor | None,
        documents: Tensor | None,
        blocks: Blocks | None,
        context: Tensor | None,
        context_mask: Tensor | None,
    ) -> Tensor:
        """Return the logits [B, L, dim] of rows with a source; raises InputError, and PretrainedError for documents."""
        added = self.cross_attention
        check_context(context, x_t.shape[0], 0 if added is None else added.width, wanted=added is not None)
        assert added is not None
        assert context is not None
        if documents is not None:
            raise PretrainedError(f"{self.name} reads one source a row, and packed rows have several documents")
        if self.shifted:
            x_t = nn.functional.pad(x_t, (1, 0), value=find_begin_token(self.model.config))
            sigma = sigma if sigma is None or sigma.dim() == 1 else nn.functional.pad(sigma, (1, 0))
            mask = None if mask is None else nn.functional.pad(mask, (1, 0), value=True)
        with added.reading(self.model, context, context_mask, None if blocks is None else blocks.places):
            output = self._run(x_t, sigma, mask, cond, None, blocks)
        return output[:, 1:] if self.shifted else output

    def logits(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        blocks: Blocks | None = None,
    ) -> Tensor:
        """Return the logits [B, L, dim] of x_t int [B, L], as `forward` does, without its check of the architecture."""
        return self._with_mask(self._run(x_t, sigma, mask, cond, documents, blocks))

    def _run(
        self,
        x_t: Tensor,
        sigma: Tensor | None,
        mask: Tensor | None,
        cond: Tensor | None,
        documents: Tensor | None,
        blocks: Blocks | None,
    ) -> Tensor:
        """Return the model's outputs [B, L, ...] at each token, shifted if it predicts the next one."""
        x = self._embed(x_t if mask is None else x_t.masked_fill(~mask, 0))
        if self.told is not None:
            x = x + self.told(x_t, sigma, cond).to(x.dtype)
        seen = None if mask is None else mask | ~mask.any(1, keepdim=True)  # never an empty row
        apart = None if documents is None else Documents(documents)
        options: dict[str, Any] = {"attention_mask": None if seen is None else seen.long()}
        same = None if apart is None else apart.same
        positions = None if apart is None else apart.positions
        if blocks is not None:
            same = blocks.attend.expand(x.shape[0], *blocks.attend.shape[-2:])
            positions = blocks.places.expand(x.shape[0], -1)
        if self.is_adapted or same is not None:
            options["attention_mask"] = make_full_attention_mask(seen, x, same)
        if positions is not None and "position_ids" in inspect.signature(self.model.forward).parameters:
            options["position_ids"] = positions + _first_position(self.model)
        output: Tensor = self.model(inputs_embeds=x, **options).logits
        if not self.shifted:
            return output
        before = torch.cat([output[:, :1], output[:, :-1]], 1)  # no token precedes the first one of a document
        return before if apart is None else torch.where(apart.begins[..., None], output, before)

    def _with_mask(self, logits: Tensor) -> Tensor:
        """Return logits [B, L, dim] with that of the mask, of those [B, L, V] of the model."""
        if not self.has_mask:
            return logits
        if self.mask_token_id is not None:
            lowest = torch.finfo(logits.dtype).min
            logits = logits.index_fill(-1, torch.tensor([self.mask_token_id], device=logits.device), lowest)
        return nn.functional.pad(logits, (0, 1))

    def _embed(self, ids: Tensor) -> Tensor:
        """Embed states int [B, L] to [B, L, width] by the model's table and the mask's embedding."""
        table = self.model.get_input_embeddings()
        masked = ids == self.num_tokens
        if self.mask_embedding is None:
            embedded: Tensor = table(ids if self.mask_token_id is None else ids.masked_fill(masked, self.mask_token_id))
            return embedded
        return torch.where(masked[..., None], self.mask_embedding, table(ids.masked_fill(masked, 0)))


def _check_sizes(name: str, model: Any, config: Any, *, begins: bool = False) -> int | None:
    """Return the number of positions of a pretrained model, None without a limit; one is for a begin token if it `begins`.

    Raises PretrainedError unless the vocabulary sizes are equal and the model has enough positions.
    """
    tokens, given = model.config.vocab_size, config.num_tokens
    if given != tokens:
        tokenizer = f"tokenizer: {{type: hugging_face, path: {config.path}}}"
        size = f"set model.vocab_size: {tokens}, and " if given < tokens else ""
        raise PretrainedError(
            f"{name} has a vocabulary of {tokens} tokens, and the model's section one of {given}; "
            f"{size}use the pretrained model's {tokenizer}"
        )
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        positions -= _first_position(model) + begins
    if positions is not None and config.get("length") and config.length > positions:
        raise PretrainedError(
            f"{name} has {positions} positions{' after its begin token' if begins else ''}, and sequences have "
            f"{config.length} tokens; reduce length to {positions}"
        )
    return positions


def _check_mask(name: str, mask: int | None, tokens: int, *, has_mask: bool) -> None:
    """Raise PretrainedError for a mask_token_id that is not in the vocabulary, or under noise without a mask."""
    if mask is None:
        return
    if not has_mask:
        raise PretrainedError(f"{name}: the process has no mask; leave mask_token_id out")
    if mask >= tokens:
        raise PretrainedError(f"{name}: mask_token_id is {mask}, and the vocabulary has {tokens} tokens")


def _first_position(model: Any) -> int:
    """Return the number of the first position: 0, or in RoBERTa the one after the padding's."""
    tables = (
        m for key, m in model.named_modules() if key.endswith("position_embeddings") and hasattr(m, "padding_idx")
    )
    padding = next((table.padding_idx for table in tables), None)
    return 0 if padding is None else padding + 1


def _mask_embedding(path: str | None, weight: Tensor) -> Tensor:
    """Return the initial embedding [width] of the mask, given the embeddings of all tokens [V, width]."""
    token = None if path is None or active_fake_mode() is not None else find_mask_token(path)
    if token is not None and token < len(weight):
        return weight[token].detach().clone()
    return weight.detach().mean(0)


def _zero_output_layers(embedding: ConditioningEmbedding) -> None:
    """Zero the last layer of every branch, so that training starts from the pretrained network."""
    parts = [embedding.noise.net[-1] if embedding.noise is not None else None]
    condition = embedding.condition
    if condition is not None:
        parts.append(condition.table if condition.num_classes is not None else condition.net[-1])
    for part in parts:
        for parameter in part.parameters() if part is not None else ():
            nn.init.zeros_(parameter)
