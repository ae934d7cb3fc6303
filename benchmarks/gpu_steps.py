"""A device with sizes of networks for `benchmarks.gpu`: time, waits, launches and peak memory of calls, and training steps."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

MASKS = {"process": {"type": "absorbing"}, "schedule": {"type": "loglinear"}}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "mdlm": {**MASKS, "objective": {"type": "mdlm"}},
    "sedd": {**MASKS, "objective": {"type": "sedd"}},
    "sedd, uniform": {"objective": {"type": "sedd"}, "process": {"type": "uniform"}},
    "udlm": {"objective": {"type": "udlm"}, "process": {"type": "uniform"}},
    "gidd": {"objective": {"type": "gidd"}, "process": {"type": "hybrid"}},
    "d3pm": {"objective": {"type": "d3pm"}, "schedule": {"type": "discrete", "num_steps": 100}},
    "bd3lm": {**MASKS, "objective": {"type": "bd3lm", "block_size": 16}},
}
NONE = "–"


@dataclass(frozen=True)
class Size:
    """Sizes of a network and its batches, and numbers of timed groups and of steps in a group."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    rows: int = 32
    length: int = 512
    vocabulary: int = 50257
    lengths: tuple[int, ...] = (1024, 8192, 65536)
    groups: int = 5
    steps: int = 10


TINY = Size(16, 1, 2, 2, 8, 11, (64, 128), 2, 1)


@dataclass(frozen=True)
class Bench:
    """A device and the sizes measured on it."""

    device: torch.device
    size: Size

    @property
    def is_gpu(self) -> bool:
        """Return True on a GPU, where waits, launches and peaks are known."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done all work."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median seconds of a call over groups of calls, after two calls that are not counted."""
        call(), call()
        times = []
        for _ in range(self.size.groups):
            self.wait()
            start = time.perf_counter()
            with self.no_waits():
                for _ in range(self.size.steps):
                    call()
            self.wait()
            times.append((time.perf_counter() - start) / self.size.steps)
        return median(times)

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Raise an error where the host waits for the GPU."""
        if self.is_gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if self.is_gpu:
                torch.cuda.set_sync_debug_mode("default")

    def peak(self, call: Callable[[], object]) -> str:
        """Return the most memory that a call allocates beyond what stood before it, in GB."""
        if not self.is_gpu:
            return NONE
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.wait()
        return f"{(torch.cuda.max_memory_allocated(self.device) - before) / 1e9:.2f} GB"

    def kernels(self, call: Callable[[], object]) -> list[str]:
        """Return the names of the kernels that a call launches; empty on a CPU."""
        if not self.is_gpu:
            return []
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            call()
            self.wait()
        events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return [event.name for event in events if not event.name.startswith(("Memcpy", "Memset"))]

    def count(self, call: Callable[[], object]) -> str:
        """Return the number of kernels that a call launches."""
        return f"{len(self.kernels(call)):,}" if self.is_gpu else NONE

    def autocast(self) -> Any:
        """Return autocast in bfloat16 on a GPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.is_gpu else nullcontext()

    def upload(self, values: Any) -> Any:
        """Return tensors of a mapping or list on the device, from pinned memory without waiting."""
        if isinstance(values, Mapping):
            return {name: self.upload(value) for name, value in values.items()}
        if isinstance(values, list):
            return [self.upload(value) for value in values]
        if not isinstance(values, Tensor) or not self.is_gpu:
            return values
        return values.pin_memory().to(self.device, non_blocking=True)


def backbone(size: Size, kind: str) -> dict[str, Any]:
    """Return the section of a backbone: ddit, performer (linear attention) or bert."""
    if kind == "bert":
        return {"type": "bert", "hidden_size": size.width, "num_layers": size.layers, "num_heads": size.heads}
    linear = {"attention_type": "linear"} if kind == "performer" else {}
    return {"type": kind, "d_model": size.width, "num_layers": size.layers, "num_heads": size.heads, **linear}


def denoiser(bench: Bench, objective: str, kind: str = "ddit") -> Any:
    """Build a denoiser in training mode on the device."""
    from model.discrete.model import DiffusionModel
    from model.discrete.types import DiffusionConfig

    size = bench.size
    network = {**backbone(size, kind), "device": str(bench.device)}
    section = {**OBJECTIVES[objective], "backbone": network, "vocab_size": size.vocabulary, "length": size.length}
    return DiffusionModel(DiffusionConfig.model_validate(section)).train()


def diffusion_step(bench: Bench, model: Any, *, trains: bool = True) -> Callable[[], None]:
    """Return a call of a training step as a plain loop has it: noise drawn on the host, forward, backward, fused AdamW."""
    size = bench.size
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(size.vocabulary, (size.rows, size.length))
    mask, seeds = torch.ones_like(ids, dtype=torch.bool), iter(range(10**9))

    def step() -> None:
        drawn = model.drawer.draw(model.drawer.check(ids, mask, seed=next(seeds)))
        given = bench.upload({"ids": ids, "mask": mask, "drawn": drawn})
        with bench.autocast():
            loss = model(given["ids"], given["mask"], drawn=given["drawn"]).loss
        loss.backward()
        if trains:
            optimizer.step()
        optimizer.zero_grad()

    return step


def decoder_step(bench: Bench, attention: str) -> Callable[[], None]:
    """Return a call of a training step of a decoder."""
    from model.model_factory import create_model
    from model.parse_model_args import parse_model_config
    from model.transformer.inputs import checked_ids
    from model_factory.training.tasks.base import decoder_loss
    from model_factory.yaml_config.dump import dump

    size = bench.size
    side = {"d_model": size.width, "num_layers": size.layers, "num_heads": size.heads, "attention_type": attention}
    side |= {"vocab_size": size.vocabulary, "device": str(bench.device), "max_length": size.length}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.yml")
        path.write_text(dump({"model": {"model_type": "decoder", "decoder": side}}))
        model: Any = create_model(parse_model_config(path)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(size.vocabulary, (size.rows, size.length))
    mask = torch.ones_like(ids, dtype=torch.bool)

    def step() -> None:
        given = bench.upload({"ids": ids, "mask": mask})
        with bench.autocast(), checked_ids():
            ids_in, mask_in = given["ids"][:, :-1], given["mask"][:, :-1]
            loss = decoder_loss(model, given["ids"], given["mask"], lambda network: network(ids_in, mask=mask_in))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
