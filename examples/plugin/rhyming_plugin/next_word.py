"""Task `next_word`: cross-entropy of the next token under a `bigram`, with optional label smoothing."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, Task, register_task


class NextWordConfig(StrictModel):
    """Keys of `training.task: {type: next_word, ...}`."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread over all tokens. [probability]"""


@register_task("next_word", columns=("input_ids",), model_types=("bigram",), config=NextWordConfig)
class NextWord(Task):
    """Mean cross-entropy of all tokens but the first of a row, in nats."""

    def weight(self, batch: Any) -> Any:
        """Return the number of predicted tokens."""
        return self.targets(batch).ge(0).sum().float()

    def __call__(self, network: Any, batch: Any) -> dict[str, Any]:
        """Compute the loss of a batch with `input_ids` [B, L]."""
        from torch.nn import functional as F

        config, logits = self.setting.task_config, network(batch["input_ids"][:, :-1])  # [B, L - 1, V]
        smoothing = config.label_smoothing if isinstance(config, NextWordConfig) else 0.0
        targets = self.targets(batch).flatten()
        return {"loss": F.cross_entropy(logits.flatten(0, 1), targets, label_smoothing=smoothing)}

    @staticmethod
    def targets(batch: Any) -> Any:
        """Return the ids [B, L - 1] that follow each token, -100 at padding."""
        ids, is_real = batch["input_ids"], batch.get("attention_mask")
        return ids[:, 1:] if is_real is None else ids[:, 1:].masked_fill(~is_real[:, 1:], -100)
