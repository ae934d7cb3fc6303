"""Task sequence classification: predict the class of a sequence."""

import torch
from torch import Tensor, nn

from model.types import PerformerParams
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import Batch, Task


class SequenceClassifier(nn.Module):
    """Encoder with a linear layer on the mean of its hidden states at real tokens."""

    def __init__(self, encoder: nn.Module, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        params: PerformerParams = encoder.params  # type: ignore[assignment]
        self.classifier = nn.Linear(params.d_model, num_labels, device=next(encoder.parameters()).device)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute logits [B, num_labels] of token ids [B, L]; `mask` bool [B, L] is True at real tokens."""
        hidden = self.encoder.hidden(x, mask)  # type: ignore[operator]  # (B, L, d_model)
        if mask is None:
            return self.classifier(hidden.mean(1))  # type: ignore[no-any-return]
        kept = mask.unsqueeze(-1)
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self.classifier(mean)  # type: ignore[no-any-return]


class SequenceClassification(Task):
    """Cross-entropy of a row's class in nats, and the accuracy."""

    def network(self, model: nn.Module) -> nn.Module:
        """Return the encoder with a classifier; raise UnfitError if the number of classes is unknown."""
        labels = self.setting.training.num_labels
        if labels is None:
            raise UnfitError(
                "the number of classes is unknown: set training.num_labels, or give the data set a label column"
            )
        return SequenceClassifier(model, labels)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of rows."""
        return torch.tensor(float(len(batch["labels"])), device=batch["labels"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `input_ids` [B, L] and `labels` [B]."""
        logits = network(batch["input_ids"], batch.get("attention_mask")).float()
        labels = batch["labels"]
        return {
            "loss": nn.functional.cross_entropy(logits, labels),
            "accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
