"""A loss or gradient that is no number ends a run before it reaches the weights, and is traced to rows and parameters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoints import steps_of
from training.distributed import gather_from_all
from training.errors import TrainingError

_SHOWN = 8


class NanCheck:
    """Keeps the losses of a step's parts with their rows, and raises TrainingError where the step cannot be taken."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: Tensor, rows: Tensor) -> None:
        """A part's loss, scalar, and the indices int64 [B] of its rows in the training split."""
        self.parts.append((loss.detach(), rows))

    def __call__(
        self, step: int, norm: float | Tensor | None, network: nn.Module, groups: Sequence[Mapping[str, Any]]
    ) -> None:
        """Look at a step's losses and at the norm of its gradients, None where it decides nothing (a scaler skips steps).

        `groups` are the optimiser's. Gradients are all processes' mean, so a loss of any of them shows in the norm.
        """
        parts, self.parts = self.parts, []
        bad = [rows for loss, rows in parts if not math.isfinite(loss)]
        if not bad and (norm is None or math.isfinite(norm)):
            return
        own = [row for part in bad for row in part.tolist()]
        all_are_here = norm is not None and not math.isfinite(norm)
        rows = sorted(row for found in (gather_from_all(own) if all_are_here else [own]) for row in found)
        what = f"the loss is not finite at step {step}" if rows else f"the gradients are not finite at step {step}"
        where = f", in the rows {_listed(rows)} of the training split" if rows else ""
        raise TrainingError(
            f"{what}{where}; {named_gradients(network, groups)}. This step was not taken; {self._kept()}"
        )

    def _kept(self) -> str:
        advice = "lower learning_rate, a longer warm-up or a smaller max_grad_norm may help"
        steps = steps_of(self.run)
        if not steps:
            return f"no checkpoint was written yet. A {advice}"
        last = self.run / f"checkpoint-{steps[-1]}"
        return f"{last} is from before it. A {advice}, with training.init_from: {last} and another --output"


def named_gradients(network: nn.Module, groups: Sequence[Mapping[str, Any]]) -> str:
    """Which parameters have a gradient that is not finite, and in which of the optimiser's groups they are."""
    told = [(name, value) for name, value in network.named_parameters() if value.grad is not None]
    bad = {name: value for name, value in told if not torch.isfinite(value.grad).all()}  # type: ignore[arg-type]
    if not bad:
        return "all gradients are finite"
    ids = {id(value) for value in bad.values()}
    found = [
        f"{number} (weight_decay {group.get('weight_decay', 0)}, lr {group['lr']:.3g})"
        for number, group in enumerate(groups)
        if any(id(value) in ids for value in group["params"])
    ]
    return (
        f"not finite are the gradients of {len(bad)} of {len(told)} parameters: {_listed(list(bad))}"
        f"; parameter group {' and '.join(found)}"
    )


def _listed(things: Sequence[object]) -> str:
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return ", ".join(str(thing) for thing in things[:_SHOWN]) + more
