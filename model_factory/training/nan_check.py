"""NaN check: a NaN or infinite loss or gradient never reaches the weights, and ends the run with its rows and parameters.

Fused AdamW skips such a step on the device by itself, so nothing waits for the device in the other steps: the check is
read one step later, or before anything is logged, evaluated or saved. Other optimisers wait for it in each step.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from model_factory.training.distributed import all_reduce_sum, gather_from_all
from model_factory.training.errors import NonFiniteError, TrainingError
from model_factory.training.run.checkpoints import list_checkpoint_steps
from model_factory.training.sharding import local_part

_SHOWN = 8


def gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each of P gradients, float [P]; of sharded ones over all processes, which all call this."""
    if not gradients:
        return torch.zeros(0)
    norms = torch.stack(list(torch._foreach_norm([local_part(gradient) for gradient in gradients])))
    is_sharded = any(local_part(gradient) is not gradient for gradient in gradients)
    return all_reduce_sum(norms.square()).sqrt() if is_sharded else norms


class Gradients:
    """Norms of the gradients of a step, [P] and in total [], with what names their parameters later.

    Arguments:
        parameters: those with a gradient, by name.
        optimizer: whose groups have other rates a step later.
    """

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer
        self.norms = gradient_norms([value.grad for value in parameters.values() if value.grad is not None])
        self.norm: Tensor = torch.linalg.vector_norm(self.norms)
        self.settings = [(group.get("weight_decay", 0), group["lr"]) for group in optimizer.param_groups]

    def describe(self) -> str:
        """Name the parameters whose gradient is not finite, and the optimiser's groups that they are in."""
        norms = zip(self.parameters.items(), self.norms.tolist(), strict=True)
        bad = {name: value for (name, value), norm in norms if not math.isfinite(norm)}
        if not bad:
            return "each gradient is finite, and only their norm overflows"
        ids = {id(value) for value in bad.values()}
        groups = [
            f"{number} (weight_decay {decay}, lr {rate:.3g})"
            for number, (decay, rate) in enumerate(self.settings)
            if any(id(value) in ids for value in self.optimizer.param_groups[number]["params"])
        ]
        return (
            f"the gradient is not finite in {len(bad)} of {len(self.parameters)} parameters: {join_some(list(bad))}"
            f"; parameter group {' and '.join(groups)}"
        )


@dataclass(frozen=True)
class _Step:
    """A step to check: its number, losses with the indices of their rows, and a flag, True if something is not finite."""

    number: int
    parts: Sequence[tuple[Tensor, Tensor]]
    gradients: Gradients | None
    flag: "_Flag"


class _Flag:
    """Copy of a flag, bool [], on its way to the host."""

    def __init__(self, flag: Tensor) -> None:
        self.flag, self.event = flag, None
        if flag.is_cuda:
            self.flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            self.flag.copy_(flag, non_blocking=True)
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record()

    def read(self) -> bool:
        """Return the flag, once it has arrived."""
        if self.event is not None:
            self.event.synchronize()
        return bool(self.flag)


class NanCheck:
    """NaN check of each step's losses and gradients; raises NonFiniteError, and the step's update is never made."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.pending: _Step | None = None

    def add(self, loss: Tensor, rows: Tensor) -> None:
        """Record a part's loss, scalar, and the indices int64 [B] of its rows in the training split."""
        self.parts.append((loss.detach(), rows))

    def __call__(self, step: int, gradients: Gradients | None) -> None:
        """Check a step before its update, and read the check of the step before.

        Gradients are averaged over processes, so a NaN loss in any process shows in their norm. They are None with a
        gradient scaler, which skips such steps by itself. Raises NonFiniteError.
        """
        self.settle()
        parts, self.parts = self.parts, []
        values = [loss for loss, _ in parts] + ([] if gradients is None else [gradients.norm])
        flag = ~torch.stack([torch.isfinite(value) for value in values]).all()
        self.pending = _Step(step, parts, gradients, _Flag(flag))
        if gradients is not None and skips_steps(gradients.optimizer):
            gradients.optimizer.grad_scale, gradients.optimizer.found_inf = None, flag.float()  # type: ignore[attr-defined]
        else:
            self.settle()

    def settle(self) -> None:
        """Read the check of the last step, if it was not read; raise NonFiniteError."""
        step, self.pending = self.pending, None
        if step is None or not step.flag.read():
            return
        own_rows = [row for loss, rows in step.parts if not math.isfinite(loss) for row in rows.tolist()]
        is_collective = step.gradients is not None and not math.isfinite(step.gradients.norm)
        rows = sorted(row for found in (gather_from_all(own_rows) if is_collective else [own_rows]) for row in found)
        what = "loss" if rows else "gradient norm"
        where = f", in the rows {join_some(rows)} of the training split" if rows else ""
        gradients = "" if step.gradients is None else f"; {step.gradients.describe()}"
        raise NonFiniteError(
            f"the {what} is not finite at step {step.number}{where}{gradients}. The optimiser step was skipped; "
            f"{self._describe_checkpoint()}"
        )

    def _describe_checkpoint(self) -> str:
        """Name the last checkpoint and the settings that may help."""
        advice = "lower learning_rate, a longer warm-up or a smaller max_grad_norm may help"
        steps = list_checkpoint_steps(self.run)
        if not steps:
            return f"no checkpoint was written yet. A {advice}"
        last = self.run / f"checkpoint-{steps[-1]}"
        return f"{last} was written before it. A {advice}, with training.init_from: {last} and another --output"


def skips_steps(optimizer: Optimizer) -> bool:
    """Return True for an optimiser that skips its update where its `found_inf`, a scalar on the device, is 1."""
    return isinstance(optimizer, AdamW) and bool(optimizer.defaults.get("fused"))


@contextmanager
def name_rows(rows: Tensor, step: int, split: str) -> Iterator[None]:
    """Add the step and the indices of the rows, int64 [B], to a ValueError of the model or the task."""
    try:
        yield
    except ValueError as error:
        kind = type(error) if isinstance(error, TrainingError) else TrainingError
        where = f"step {step}, in one of the rows {join_some(rows.tolist())} of the {split} split"
        raise kind(f"{where}: {error}") from error


def join_some(items: Sequence[object]) -> str:
    """Join the first few items with commas, and count the rest."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(str(thing) for thing in items[:_SHOWN]) + more
