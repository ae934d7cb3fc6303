"""Metric of the task `next_word`: the share of tokens that the model predicts."""

from typing import Any

from model_factory import register_metric


@register_metric("next_word")
def measure(run: Any, split: Any, settings: Any) -> Any:
    """Measure accuracy = tokens whose likeliest prediction is right / tokens, with an interval over rows."""
    import torch

    from model_factory import Report, ratio_figure

    right: list[float] = []
    tokens: list[float] = []
    with torch.no_grad():
        for batch in split.batches(split.name):
            targets = run.task.targets(batch)  # [B, L - 1], -100 at padding
            best = run.model(batch["input_ids"][:, :-1]).argmax(-1)
            right += (best == targets).sum(1).tolist()
            tokens += targets.ge(0).sum(1).tolist()
    return Report([ratio_figure("accuracy", right, tokens, settings.seed)])
