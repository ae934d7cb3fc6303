"""Log window: sums since the last logged step; a checkpoint holds them, so that the first loss after a resume covers all steps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_factory.training.distributed import all_reduce_sum, broadcast_from_main
from model_factory.training.errors import RunFolderError
from model_factory.training.run.checkpoints import read_json
from model_factory.yaml_config.schema_version import add_version

WINDOW = "log_window.json"


@dataclass(frozen=True)
class LogWindow:
    """Sums of one process over the steps after `last_logged`.

    `loss` is the sum of the step losses, a float32 scalar; `measured` holds [weighted sum, sum of weights] of each metric.
    `tokens` are those of all steps of the run.
    """

    last_logged: int
    loss: Tensor
    measured: dict[str, Tensor]
    tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return numbers for JSON, which keeps every bit of them."""
        measured = {name: pair.tolist() for name, pair in self.measured.items()}
        return {
            "last_logged": self.last_logged,
            "loss": self.loss.item(),
            "measured": measured,
            "tokens": self.tokens,
        }


def accumulate(totals: dict[str, Tensor], name: str, value: Tensor, weight: Tensor) -> None:
    """Add a mean over `weight` items, both scalars, to `totals[name]`: [weighted sum, sum of weights], float64 [2].

    On mps, which has no float64, it is float32.
    """
    kind = torch.float32 if value.device.type == "mps" else torch.float64
    pair = torch.stack([value.detach().to(kind) * weight, weight.to(value.device, kind)])
    totals[name] = totals[name] + pair if name in totals else pair


def reduce_means(totals: dict[str, Tensor], device: torch.device) -> dict[str, float]:
    """Return the means of scalars [] over all processes by name; the main process gives the names, as another may have no rows."""
    names = broadcast_from_main(sorted(totals))
    if not names:
        return {}
    empty = torch.zeros_like(next(iter(totals.values()))) if totals else torch.zeros(2, dtype=torch.float64)
    flat = torch.cat([totals.get(name, empty) for name in names]).to(device)
    pairs = all_reduce_sum(flat).view(-1, 2).tolist()
    return {name: total / weight for name, (total, weight) in zip(names, pairs, strict=True) if weight}


def write_log_windows(folder: Path, windows: Sequence[dict[str, Any]]) -> None:
    """Write the windows of all processes, as `LogWindow.as_dict` gives them, into the folder of a checkpoint."""
    (folder / WINDOW).write_text(json.dumps(add_version({"processes": list(windows)})) + "\n", encoding="utf-8")


def read_log_window(folder: Path, rank: int, world: int, device: torch.device) -> LogWindow | None:
    """Return the window of process `rank` of `world` at a checkpoint; None if the checkpoint was written without one.

    If it was written by another number of processes, each gets the mean of their losses, as the log is a mean over
    processes, and the first gets the sums of their metrics. Raise RunFolderError for a damaged file.
    """
    if not (folder / WINDOW).exists():
        return None
    content = read_json(folder / WINDOW)
    kind = torch.float32 if device.type == "mps" else torch.float64
    try:
        found = [_read_window(entry, device, kind) for entry in content["processes"]]
        if len(found) == world:
            return found[rank]
        loss = torch.stack([window.loss for window in found]).mean()
        measured: dict[str, Tensor] = {}
        for name, pair in (item for window in found for item in window.measured.items()):
            measured[name] = measured[name] + pair if name in measured else pair
        tokens = sum(window.tokens for window in found)
        return LogWindow(found[0].last_logged, loss, {} if rank else measured, 0 if rank else tokens)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder / WINDOW} does not hold the sums since the last logged step ({error}); remove this checkpoint to "
            "resume from the one before"
        ) from error


def _read_window(entry: dict[str, Any], device: torch.device, kind: torch.dtype) -> LogWindow:
    if type(entry["last_logged"]) is not int or not 0 <= entry["last_logged"] < 2**62:
        raise ValueError(f"last_logged is {entry['last_logged']!r}")
    measured = {str(name): torch.tensor(pair, dtype=kind, device=device) for name, pair in entry["measured"].items()}
    if any(pair.shape != (2,) for pair in measured.values()):
        raise ValueError("a metric is not a sum and its weight")
    tokens = entry.get("tokens", 0)
    if type(tokens) is not int or not 0 <= tokens < 2**62:
        raise ValueError(f"tokens is {tokens!r}")
    return LogWindow(entry["last_logged"], torch.tensor(float(entry["loss"]), device=device), measured, tokens)
