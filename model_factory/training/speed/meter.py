"""Speed, memory, wait for batches and MFU of each logged step, by the host's clock: nothing of a device is read for them."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.distributed import is_main, world_size
from model_factory.training.network import TaskModule
from model_factory.training.speed.flops import StepFlops
from model_factory.training.tasks.base import Batch
from model_factory.yaml_config.errors import escape_controls

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "A10G": 70.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 5090": 209.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense peak of matrix products in bfloat16 or float16, by a part of the GPU's name, from the vendor's data sheets. [TFLOP/s]"""
FLOAT32_TFLOPS = {
    "GH200": 67.0,
    "H200": 67.0,
    "H100 PCIe": 51.0,
    "H100 NVL": 60.0,
    "H100": 67.0,
    "A100": 19.5,
    "L40S": 91.6,
    "L40": 90.5,
    "L4": 30.3,
    "T4": 8.1,
    "RTX 5090": 104.8,
    "RTX 4090": 82.6,
    "RTX 3090": 35.6,
}
"""The same in float32, without TF32. [TFLOP/s]"""
_PARTIAL = ("MIG", "Laptop", "Max Q", "D")
"""Parts of names of GPUs that have less than the peak of their kind."""


def count_tokens(batch: Batch) -> int:
    """Return the number of real tokens in a batch of ids on the CPU, 0 for a batch of features."""
    total = 0
    for name, ids in batch.items():
        if name.endswith("_ids") and name not in ("position_ids", "document_ids") and isinstance(ids, Tensor):
            mask = batch.get("attention_mask" if name == "input_ids" else name.replace("_ids", "_mask"))
            total += int(mask.sum()) if isinstance(mask, Tensor) and mask.shape == ids.shape else ids.numel()
    return total


def create_meter(module: TaskModule, device: torch.device, settings: TrainingConfig) -> "SpeedMeter":
    """Return the meter of a run; only the main process, which logs, counts FLOPs, and only if the peak is known."""
    tflops = settings.peak_tflops
    peak = peak_flops(device, is_half=settings.bf16 or settings.fp16) if tflops is None else tflops * 1e12
    flops = None
    if peak is not None and is_main():
        try:
            flops = StepFlops(module)
        except Exception as error:  # of custom code that cannot be copied; the run needs no copy
            _report_missing_mfu(error)
    return SpeedMeter(device, peak, flops, world_size())


def _report_missing_mfu(error: Exception) -> None:
    text = escape_controls(str(error).partition("\n")[0])
    print(f"note: mfu is left out: the FLOPs of a step cannot be counted ({text})", file=sys.stderr, flush=True)


class SpeedMeter:
    """Speed since the last call, the wait for batches, memory, and MFU where the peak is known.

    Arguments:
        device: the device that trains; `devices` is the number of processes.
        peak: of one device, None if it is unknown. [FLOP/s]
        flops: counter of the FLOPs of the first batch; None: no MFU.
    """

    def __init__(
        self, device: torch.device, peak: float | None = None, flops: StepFlops | None = None, devices: int = 1
    ) -> None:
        self.device, self.peak, self.flops, self.devices = device, peak, flops, devices
        self.flops_a_token: float | None = None
        self.begin(0, 0)

    def begin(self, step: int, tokens: float) -> None:
        """Begin to measure at a step and a number of tokens."""
        self.step, self.tokens, self.seconds, self.waited = step, tokens, time.perf_counter(), 0.0

    def leave_out(self, since: float) -> None:
        """Do not count the time from `since`, a value of `time.perf_counter()`, until now: evaluation, samples, saving."""
        now = time.perf_counter()
        self.seconds += now - max(since, self.seconds)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and add up the seconds in which the training waits for them."""
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - start
            yield batch

    def count_flops(self, parts: Sequence[Batch]) -> None:
        """Count the FLOPs of the first part of the first step, in time that is left out; a failure is reported once."""
        if self.flops is None or not parts:
            return
        since, counter, self.flops = time.perf_counter(), self.flops, None
        tokens = count_tokens(parts[0])
        if not tokens:
            return
        try:
            self.flops_a_token = counter.count(parts[0]) / tokens
        except Exception as error:  # of code that needs the values of outputs
            _report_missing_mfu(error)
        self.leave_out(since)

    def measure(self, step: int, tokens: float) -> dict[str, float]:
        """Return the figures since the last call; empty without a new step.

        They are steps_per_second, step_ms, data_wait (a share of the time), memory_gib and, for batches of tokens,
        tokens_per_second and mfu.
        """
        seconds, steps, more = time.perf_counter() - self.seconds, step - self.step, tokens - self.tokens
        waited = self.waited
        self.begin(step, tokens)
        if steps <= 0 or seconds <= 0:
            return {}
        found = {
            "steps_per_second": round(steps / seconds, 4),
            "step_ms": round(1e3 * seconds / steps, 3),
            "data_wait": round(min(waited / seconds, 1.0), 4),
            "memory_gib": round(peak_memory(self.device), 3),
        }
        if more > 0:
            found["tokens_per_second"] = round(more / seconds, 1)
            if self.flops_a_token is not None and self.peak is not None:
                found["mfu"] = round(self.flops_a_token * more / seconds / (self.peak * self.devices), 4)
        return found


def peak_memory(device: torch.device) -> float:
    """Return the most memory that was in use: on a GPU allocated by torch, else of the process. [GiB]"""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def peak_flops(device: torch.device, *, is_half: bool) -> float | None:
    """Return the peak of the device in FLOP/s, in half or in single precision; None if it is unknown."""
    if device.type != "cuda":
        return None
    if not is_half and torch.get_float32_matmul_precision() != "highest":
        return None
    return find_peak(torch.cuda.get_device_name(device), PEAK_TFLOPS if is_half else FLOAT32_TFLOPS)


def find_peak(name: str, peaks: dict[str, float]) -> float | None:
    """Return the peak of the GPU with this name in FLOP/s, None if it is in no table; parts of a GPU have no peak."""
    words = f" {name.replace('-', ' ')} "
    if any(f" {part} " in words for part in _PARTIAL):
        return None
    known = [tflops for part, tflops in peaks.items() if f" {part} " in words]
    return known[0] * 1e12 if known else None
