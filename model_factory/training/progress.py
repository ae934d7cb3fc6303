"""Text about a run's progress: the header at the start, and speed, memory and MFU of each logged step."""

import resource
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_manager.rows.lengths import row_lengths
from data_manager.rows.shards import MappedRows
from data_manager.rows.token_stream import TokenStream
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.share import Share
from model_factory.training.splits import Splits, is_table
from model_factory.training.tasks.base import Batch

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 5090": 209.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense peak of matrix products in bfloat16 or float16, by a part of the GPU's name, from the vendor's data sheets. [TFLOP/s]"""
_FLOPS_A_WEIGHT = 6
"""Floating-point operations of a token and a weight, forward and backward (Kaplan et al. 2020, without attention)."""
_MOST_PARTS = 6


def count_tokens(batch: Batch) -> int:
    """Return the number of real tokens in a batch of ids on the CPU, 0 for a batch of features."""
    total = 0
    for name, ids in batch.items():
        if name.endswith("_ids") and name not in ("position_ids", "document_ids") and isinstance(ids, Tensor):
            mask = batch.get("attention_mask" if name == "input_ids" else name.replace("_ids", "_mask"))
            total += int(mask.sum()) if isinstance(mask, Tensor) and mask.shape == ids.shape else ids.numel()
    return total


def describe_run(
    config: ExperimentConfig,
    network: nn.Module,
    splits: Splits,
    settings: TrainingConfig,
    share: Share,
    offset: int = 0,
) -> list[str]:
    """Return the header of a run: model, rows, length and precision, a line each.

    `offset` is the position in the stream of rows at which step 0 would begin.
    """
    assert config.model is not None
    noise_draw = getattr(getattr(network, "objective", None), "noise_draw", None)
    is_bound = getattr(noise_draw, "is_bound", True)
    return [
        f"model: {config.model.name} ({config.model.model_type}), {_parameters(network)}",
        f"data: {_rows(splits)}",
        f"length: {_length(splits.train_rows, settings, share, offset)}",
        f"precision: {'bfloat16' if settings.bf16 else 'float16' if settings.fp16 else 'float32'}",
        *([] if is_bound else ["loss: of clipped times in training, which is no bound; evaluations compute the bound"]),
    ]


def _rows(splits: Splits) -> str:
    """Describe the rows to train and to evaluate on; tokens are counted only where the rows are a table on disk."""
    train, evaluation = splits.train, splits.evaluation
    if evaluation is None:
        evaluated = "none to evaluate on"
    else:
        evaluated = (
            "a stream to evaluate on" if isinstance(evaluation, TokenStream) else f"{len(evaluation):,} to evaluate on"
        )
    if splits.train_rows is None:
        return f"a stream of rows to train on; {evaluated}"
    is_counted = is_table(train) and not isinstance(train, TokenStream | MappedRows)
    tokens = f", {sum(int(one.sum()) for one in row_lengths(train).values()):,} tokens" if is_counted else ""
    return f"{splits.train_rows:,} rows to train on{tokens}; {evaluated}"


def _length(rows: int | None, settings: TrainingConfig, share: Share, offset: int) -> str:
    steps = f"{settings.max_steps:,} steps of {share.rows:,} rows"
    if rows is None:
        return steps
    epochs = (offset + settings.max_steps * share.rows) / rows
    return f"{steps}, {epochs:,.3g} epochs; an epoch has {rows / share.rows:,.4g} steps"


def _parameters(network: nn.Module) -> str:
    """Describe the number of parameters, that of the largest parts, and of those that are trained."""
    total = sum(value.numel() for value in network.parameters())
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in network.named_children()}
    while len(counts) == 1:  # a wrapper around the network
        inner = network.get_submodule(next(iter(counts)))
        network, counts = (
            inner,
            {name: sum(value.numel() for value in part.parameters()) for name, part in inner.named_children()},
        )
    largest = sorted(((size, name) for name, size in counts.items() if size), reverse=True)[:_MOST_PARTS]
    parts = ", ".join(f"{name} {size:,}" for size, name in largest)
    some = f", of which {trained:,} are trained" if trained < total else ""
    return f"{total:,} parameters{some}" + (f" ({parts})" if parts else "")


class SpeedMeter:
    """Speed since the last call, memory, and MFU where the GPU's peak is known.

    Arguments:
        parameters: weights of the network, for MFU = 6 * parameters * tokens / s / peak.
        device: the device that trains; `devices` is the number of processes.
    """

    def __init__(self, parameters: int, device: torch.device, devices: int) -> None:
        self.parameters, self.device, self.devices = parameters, device, devices
        self.step, self.tokens, self.seconds = 0, 0.0, time.perf_counter()

    def begin(self, step: int, tokens: float) -> None:
        """Begin to measure at a step and a number of tokens."""
        self.step, self.tokens, self.seconds = step, tokens, time.perf_counter()

    def leave_out(self, since: float) -> None:
        """Do not count the time from `since`, a value of `time.perf_counter()`, until now: evaluation, samples, saving."""
        now = time.perf_counter()
        self.seconds += now - max(since, self.seconds)

    def measure(self, step: int, tokens: float) -> dict[str, float]:
        """Return steps_per_second, tokens_per_second, memory_gib and mfu since the last call; empty without a new step."""
        seconds, steps, more = time.perf_counter() - self.seconds, step - self.step, tokens - self.tokens
        self.begin(step, tokens)
        if steps <= 0 or seconds <= 0:
            return {}
        found = {"steps_per_second": round(steps / seconds, 4), "memory_gib": round(peak_memory(self.device), 3)}
        if more > 0:
            found["tokens_per_second"] = round(more / seconds, 1)
            peak = peak_flops(self.device)
            if peak is not None:
                found["mfu"] = round(_FLOPS_A_WEIGHT * self.parameters * more / seconds / (peak * self.devices), 4)
        return found


def peak_memory(device: torch.device) -> float:
    """Return the most memory that was in use: on a GPU allocated by torch, else of the process. [GiB]"""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of the device in FLOP/s, None if it is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [tflops for part, tflops in PEAK_TFLOPS.items() if part in name]
    return known[0] * 1e12 if known else None


def describe_seconds(seconds: float) -> str:
    """Return a duration such as `4.2 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_progress(entry: Mapping[str, float], *, memory: bool = False) -> str:
    """Return the figures of a logged step for the terminal, with `memory` also the most memory in use."""
    shown = {name: f"{entry[name]:.4g}" for name in ("loss", "eval_loss", "learning_rate") if name in entry}
    if "tokens_per_second" in entry:
        shown["tokens/s"] = f"{entry['tokens_per_second']:,.0f}"
    if "mfu" in entry:
        shown["MFU"] = f"{entry['mfu']:.1%}"
    if memory and "memory_gib" in entry:
        shown["memory"] = f"{entry['memory_gib']:.2f} GiB"
    return "  ".join(f"{name} {value}" for name, value in shown.items())
