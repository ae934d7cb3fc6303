"""Ranks and what they do together; in a single process everything here is a plain call."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def world_size() -> int:
    """Number of processes that train together, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, 0 to world_size - 1, over all hosts."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """True in the one process that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor of any shape over all processes, on its device."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def broadcast_from_main(value: Item) -> Item:
    """The main process's value, in all processes."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather_from_all(value: Item) -> list[Item]:
    """Every process's value, in all processes."""
    if not dist.is_initialized():
        return [value]
    found = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


class Agreement:
    """Whether any process says yes; asked at each step, so over the CPU, where no process waits for its GPU."""

    def __init__(self) -> None:
        on_cpu = not dist.is_initialized() or dist.get_backend() == "gloo"
        self.group = None if on_cpu else dist.new_group(backend="gloo")

    def any(self, says_yes: bool) -> bool:
        """True in all processes where it is in one; all have to ask."""
        if not dist.is_initialized():
            return says_yes
        flag = torch.tensor([int(says_yes)])
        dist.all_reduce(flag, group=self.group)
        return bool(flag)


@contextmanager
def main_first() -> Iterator[None]:
    """The block runs in the main process first, and in the others when it is through (with downloads, say)."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """What the block draws from the global generators leaves no trace in training."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
