"""Ranks and collective operations; in a single process, each is a no-op or returns its input."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def world_size() -> int:
    """Return the number of processes that train together, as set by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process, 0 to world_size - 1, over all hosts."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return True in the main process, the only one that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes have called this function."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum a tensor of any shape over all processes, on its device."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def broadcast_from_main(value: Item) -> Item:
    """Return the main process's value in all processes."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather_from_all(value: Item) -> list[Item]:
    """Return the values of all processes in all processes."""
    if not dist.is_initialized():
        return [value]
    found = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


class Agreement:
    """Collective OR over processes; it runs at each step, so on the CPU, to avoid a GPU synchronisation."""

    def __init__(self) -> None:
        on_cpu = not dist.is_initialized() or dist.get_backend() == "gloo"
        self.group = None if on_cpu else dist.new_group(backend="gloo")

    def any(self, flag: bool) -> bool:
        """Return True in all processes if `flag` is True in any; all processes must call it."""
        if not dist.is_initialized():
            return flag
        count = torch.tensor([int(flag)])
        dist.all_reduce(count, group=self.group)
        return bool(count)


def get_rng_state() -> list[Tensor]:
    """Return the global RNG states, uint8 [bytes] each, of the CPU and of the current CUDA device, if CUDA is in use."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]  # type: ignore[no-untyped-call]


def set_rng_state(states: list[Tensor]) -> None:
    """Restore the RNG states, uint8 [bytes] each, from `get_rng_state`."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process first (downloads, for example), and in the others after it."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Restore the global RNG state after the block, so that its draws do not affect training."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
