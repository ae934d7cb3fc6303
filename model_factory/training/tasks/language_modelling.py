"""Task language modelling: predict each token from the tokens before it."""

import torch
from torch import Tensor, nn

from model.types import PerformerParams
from model_factory.training.tasks.base import Batch, Task, next_token_loss, real_tokens

LONGEST_PROMPT = 16


class LanguageModelling(Task):
    """Cross-entropy of the next token in nats, over all tokens but the first of a row."""

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of predicted tokens."""
        return real_tokens(batch)[:, 1:].sum().float()

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `input_ids` [B, L]."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        logits = network(ids[:, :-1], mask=None if mask is None else mask[:, :-1])
        return {"loss": next_token_loss(logits, ids, real_tokens(batch))}

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Continue prompts taken from the beginnings of rows; prompt and continuation are separated by `|`."""
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        if tokenizer is None:
            return []
        shortest = int(real_tokens(batch).sum(1).min())
        length = max(1, min(LONGEST_PROMPT, shortest // 2))
        params: PerformerParams = network.params  # type: ignore[assignment]
        longest = params.max_length
        capacity = settings.max_new_tokens if longest is None else longest - length
        if capacity < 1:
            return []
        prompts = batch["input_ids"][:, :length]
        tokens = network.generate(  # type: ignore[operator]
            prompts,
            min(settings.max_new_tokens, capacity),
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.num_beams,
            tokenizer.eos_token_id,
            generator,
            pad_token=tokenizer.pad_token_id,
        )
        return [tokenizer.decode(row[:length]) + "|" + tokenizer.decode(row[length:]) for row in tokens.tolist()]
