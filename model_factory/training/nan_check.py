"""NaN check: a NaN or infinite loss or gradient ends the run before the optimiser step, with its rows and parameters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_factory.training.distributed import gather_from_all
from model_factory.training.errors import NonFiniteError
from model_factory.training.run.checkpoints import list_checkpoint_steps

_SHOWN = 8


class NanCheck:
    """NaN check of each step's losses and gradients; raises NonFiniteError before the optimiser step."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: Tensor, rows: Tensor) -> None:
        """Record a part's loss, scalar, and the indices int64 [B] of its rows in the training split."""
        self.parts.append((loss.detach(), rows))

    def __call__(
        self, step: int, norm: float | Tensor | None, network: nn.Module, groups: Sequence[Mapping[str, Any]]
    ) -> None:
        """Check a step's losses and the norm of its gradients (None: not checked, as a gradient scaler skips such steps).

        `groups` are the optimiser's parameter groups. Gradients are averaged over processes, so a NaN loss in any process
        shows in the norm.
        """
        parts, self.parts = self.parts, []
        bad = [rows for loss, rows in parts if not math.isfinite(loss)]
        if not bad and (norm is None or math.isfinite(norm)):
            return
        own_rows = [row for part in bad for row in part.tolist()]
        is_collective = norm is not None and not math.isfinite(norm)
        rows = sorted(row for found in (gather_from_all(own_rows) if is_collective else [own_rows]) for row in found)
        problem = (
            f"the loss is not finite at step {step}" if rows else f"the gradient norm is not finite at step {step}"
        )
        where = f", in the rows {join_some(rows)} of the training split" if rows else ""
        raise NonFiniteError(
            f"{problem}{where}; {describe_gradients(network, groups)}. The optimiser step was skipped; {self._describe_checkpoint()}"
        )

    def _describe_checkpoint(self) -> str:
        """Name the last checkpoint and the settings that may help."""
        advice = "lower learning_rate, a longer warm-up or a smaller max_grad_norm may help"
        steps = list_checkpoint_steps(self.run)
        if not steps:
            return f"no checkpoint was written yet. A {advice}"
        last = self.run / f"checkpoint-{steps[-1]}"
        return f"{last} was written before it. A {advice}, with training.init_from: {last} and another --output"


def describe_gradients(network: nn.Module, groups: Sequence[Mapping[str, Any]]) -> str:
    """Name the parameters whose gradient is not finite, and the optimiser's groups that they are in."""
    with_gradient = [(name, value) for name, value in network.named_parameters() if value.grad is not None]
    bad = {name: value for name, value in with_gradient if not torch.isfinite(value.grad).all()}  # type: ignore[arg-type]
    if not bad:
        return "each gradient is finite, and only their norm overflows"
    ids = {id(value) for value in bad.values()}
    found = [
        f"{number} (weight_decay {group.get('weight_decay', 0)}, lr {group['lr']:.3g})"
        for number, group in enumerate(groups)
        if any(id(value) in ids for value in group["params"])
    ]
    return (
        f"the gradient is not finite in {len(bad)} of {len(with_gradient)} parameters: {join_some(list(bad))}"
        f"; parameter group {' and '.join(found)}"
    )


def join_some(items: Sequence[object]) -> str:
    """Join the first few items with commas, and count the rest."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(str(thing) for thing in items[:_SHOWN]) + more
