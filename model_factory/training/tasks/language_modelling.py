"""Task language modelling: predict each token from the tokens before it."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.transformer.inputs import checked_ids
from model.types import PerformerParams
from model_factory.training.tasks.base import (
    Batch,
    IdCheck,
    Task,
    counted_tokens,
    decoder_loss,
    real_tokens,
    take_drawn,
)

LONGEST_PROMPT = 16


class LanguageModelling(Task):
    """Cross-entropy of the next token in nats, over all tokens but the first of a row.

    With `document_ids` a token is predicted from its own document: the end token before a document counts as its begin
    token, so that its first token is predicted from that alone, as in a text that is generated without a prompt. Of rows
    with responses, only the tokens of responses count.
    """

    takes_fill: ClassVar[bool] = False

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of predicted tokens."""
        return counted_tokens(batch)[:, 1:].sum().float()

    def host_draw(self, network: nn.Module) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Return the check of token ids, for a network that names its vocabulary."""
        size = getattr(getattr(network, "params", None), "vocab_size", None)
        return None if size is None else IdCheck({"input_ids": size})

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `input_ids` [B, L]."""
        read = partial(_read, batch=batch)
        with nullcontext() if take_drawn(batch) is None else checked_ids():
            return {"loss": decoder_loss(network, batch["input_ids"], counted_tokens(batch), read)}

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Continue prompts taken from the beginnings of rows; prompt and continuation are separated by `|`.

        The prompt of a row with responses is all of the text before the first one.
        """
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        if tokenizer is None:
            return []
        prompts, shown = _prompts(batch)
        length = prompts.shape[1]
        params: PerformerParams = network.params  # type: ignore[assignment]
        longest = params.max_length
        capacity = settings.max_new_tokens if longest is None else longest - length
        if capacity < 1:
            return []
        tokens = network.generate(  # type: ignore[operator]
            prompts,
            min(settings.max_new_tokens, capacity),
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.num_beams,
            tokenizer.eos_token_id,
            generator,
            shown,
            pad_token=tokenizer.pad_token_id,
        )
        starts = [row[kept].tolist() for row, kept in zip(prompts, shown, strict=True)]
        pairs = zip(starts, tokens[:, length:].tolist(), strict=True)
        return [tokenizer.decode(start) + "|" + tokenizer.decode(new) for start, new in pairs]


def _prompts(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the prompts of rows int64 [B, N], and bool [B, N] that is False at padding and at other documents."""
    ids = batch["input_ids"]
    if "response_mask" in batch:
        sizes = batch["response_mask"].int().argmax(1).clamp(min=1)
        longest = int(sizes.max())
        places = torch.arange(longest, device=ids.device) - (longest - sizes)[:, None]  # padded on the left
        return ids.gather(1, places.clamp(min=0)), places >= 0
    shortest = int(real_tokens(batch).sum(1).min())
    length = max(1, min(LONGEST_PROMPT, shortest // 2))
    shown = torch.ones_like(ids[:, :length]).bool()
    if "document_ids" in batch:
        documents = _input_documents(batch)[:, :length]
        shown = documents == documents[:, -1:]
    return ids[:, :length], shown


def next_token_logits(network: nn.Module, batch: Batch) -> Tensor:
    """Return the logits [B, L - 1, V] of all tokens but the first of each row, of a batch with `input_ids` [B, L]."""
    return _read(network, batch)


def _read(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Call a decoder, or its `hidden`, with all tokens of a batch but the last of each row."""
    mask = batch.get("attention_mask")
    given = {"documents": _input_documents(batch)} if "document_ids" in batch else {}
    return call(batch["input_ids"][:, :-1], mask=None if mask is None else mask[:, :-1], **given)


def _input_documents(batch: Batch) -> Tensor:
    """Return the documents of the inputs [B, L - 1]: those of the tokens that they predict.

    So the end token between two documents belongs to the second one, as its begin token.
    """
    documents: Tensor = batch["document_ids"][:, 1:]
    return documents
