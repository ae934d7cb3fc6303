"""Tell the class of a sequence."""

import torch
from torch import Tensor, nn

from model.types import PerformerParams
from training.errors import UnfitError
from training.tasks.base import Batch, Task


class SequenceClassifier(nn.Module):
    """An encoder with a linear layer over the mean of its hidden states at real tokens."""

    def __init__(self, encoder: nn.Module, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        params: PerformerParams = encoder.params  # type: ignore[assignment]
        self.classifier = nn.Linear(params.d_model, num_labels, device=next(encoder.parameters()).device)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, num_labels] of token ids [B, L]; `mask` bool [B, L] is True at real tokens."""
        hidden = self.encoder.hidden(x, mask)  # type: ignore[operator]  # (B, L, d_model)
        if mask is None:
            return self.classifier(hidden.mean(1))  # type: ignore[no-any-return]
        kept = mask.unsqueeze(-1)
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self.classifier(mean)  # type: ignore[no-any-return]


class SequenceClassification(Task):
    """Cross-entropy of a row's class in nats, and the accuracy."""

    def network(self, model: nn.Module) -> nn.Module:
        """The encoder with its classifier; raises UnfitError where the number of classes is not known."""
        labels = self.setting.training.num_labels
        if labels is None:
            raise UnfitError("training.num_labels is not set, and the data set does not say how many classes there are")
        return SequenceClassifier(model, labels)

    def weight(self, batch: Batch) -> Tensor:
        """Rows."""
        return torch.tensor(float(len(batch["labels"])), device=batch["labels"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch with `input_ids` [B, L] and `labels` [B]."""
        logits = network(batch["input_ids"], batch.get("attention_mask")).float()
        labels = batch["labels"]
        return {
            "loss": nn.functional.cross_entropy(logits, labels),
            "accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
