"""Task translation: predict a target sentence from its source."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.transformer.inputs import checked_ids
from model_factory.training.tasks.base import Batch, IdCheck, Task, decoder_loss, real_tokens, take_drawn


class Translation(Task):
    """Cross-entropy of the target's next token in nats, over all tokens but the first of a row."""

    generation: ClassVar[Mapping[str, Any]] = {"temperature": 0.0, "num_samples": 1}  # greedy decoding, one text
    rows_shown: ClassVar[int] = 4

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of predicted target tokens."""
        return real_tokens(batch, "target_ids", "target_mask")[:, 1:].sum().float()

    def host_draw(self, network: nn.Module) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Return the check of token ids, for a network that names its vocabularies."""
        parts = {"source_ids": getattr(network, "encoder", None), "target_ids": getattr(network, "decoder", None)}
        sizes = {column: getattr(getattr(part, "params", None), "vocab_size", None) for column, part in parts.items()}
        known = {column: size for column, size in sizes.items() if size is not None}
        return IdCheck(known) if len(known) == len(parts) else None

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `source_ids` [B, M] and `target_ids` [B, N]."""
        target, mask = batch["target_ids"], batch.get("target_mask")
        input_mask = None if mask is None else mask[:, :-1]
        real = real_tokens(batch, "target_ids", "target_mask")

        def call(read: Callable[..., Tensor]) -> Tensor:
            return read(batch["source_ids"], target[:, :-1], batch.get("source_mask"), input_mask)

        with nullcontext() if take_drawn(batch) is None else checked_ids():
            return {"loss": decoder_loss(network, target, real, call)}

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return source, reference and translation of each row."""
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        if tokenizer is None:
            return []
        tokens = network.generate(  # type: ignore[operator]
            batch["source_ids"],
            tokenizer.bos_token_id,
            settings.max_new_tokens,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.num_beams,
            tokenizer.eos_token_id,
            generator,
            source_mask=batch.get("source_mask"),
            pad_token=tokenizer.pad_token_id,
        )
        sides = (batch["source_ids"].tolist(), batch["target_ids"].tolist(), tokens.tolist())
        return ["\n".join(map(tokenizer.decode, row)) for row in zip(*sides, strict=True)]
