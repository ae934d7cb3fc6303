"""How an operator call is cut: blocks of batch rows, groups of chunks that are computed together, reused buffers."""

from collections.abc import Callable, Sequence
from math import prod
from threading import local
from typing import NamedTuple, cast

import torch
from torch import Tensor, sym_max, sym_min

CHUNK = 64
"""Tokens of a chunk: quadratic work inside grows with it, the number of states falls."""
CHUNKS_AT_ONCE = {"cpu": 24}
"""Chunks over all heads of a group: on a CPU their features should stay in the cache; elsewhere see below."""
CHUNKS_AT_ONCE_ELSEWHERE = 1024

VIEWS = 1000
"""Shapes that a workspace remembers."""

Choice = Callable[[int, int], int]


class Group(NamedTuple):
    """`chunks` neighbouring chunks of `length` tokens each, from token `start` on."""

    start: int
    chunks: int
    length: int

    @property
    def tokens(self) -> slice:
        """The tokens of the group."""
        return slice(self.start, self.start + self.chunks * self.length)


class Plan(NamedTuple):
    """Batch rows a block and the groups of a sequence; forward and backward of a call make the same one."""

    batch_block: int
    chunks: int
    groups: list[Group]

    def blocks(self, batch: int) -> list[slice]:
        """The batch rows of each block."""
        return [slice(i, min(i + self.batch_block, batch)) for i in range(0, batch, self.batch_block)]


def block_sizes(shape: Sequence[int], device: str) -> tuple[int, int]:
    """Batch rows of a block and chunks of a group for tensors [batch, heads, tokens, D] on a device of this type."""
    at_once, (batch, heads, tokens) = CHUNKS_AT_ONCE.get(device, CHUNKS_AT_ONCE_ELSEWHERE), shape[:3]
    # sym_max and sym_min: under torch.compile with dynamic shapes these are no numbers yet.
    larger, smaller = cast(Choice, sym_max), cast(Choice, sym_min)
    rows = larger(1, smaller(batch, at_once // larger(1, heads)))
    return rows, larger(1, smaller(tokens // CHUNK, at_once // larger(1, rows * heads)))


def count_groups(shape: Sequence[int], device: str) -> int:
    """How many groups `make_plan` makes."""
    _, chunks = block_sizes(shape, device)
    whole, rest = shape[2] // CHUNK, shape[2] % CHUNK
    return (whole + chunks - 1) // chunks + (rest + CHUNK - 1) // CHUNK


def make_plan(shape: Sequence[int], device: str) -> Plan:
    """Plan for tensors [batch, heads, tokens, D] on a device of this type; the last chunk may be shorter."""
    batch_block, chunks = block_sizes(shape, device)
    whole, rest = divmod(shape[2], CHUNK)
    groups = [Group(i * CHUNK, min(chunks, whole - i), CHUNK) for i in range(0, whole, chunks)]
    if rest:
        groups.append(Group(whole * CHUNK, 1, rest))
    return Plan(batch_block, chunks, groups)


class Workspace:
    """Buffers by name: fresh memory for every chunk would cost as much as the products themselves."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A contiguous buffer with anything in it, valid until the next call with the same name."""
        view = self._views.get((name, shape))
        return self._make(name, shape) if view is None else view

    def _make(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size, buffer = prod(shape), self._buffers.get(name)
        with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
            if buffer is None or buffer.numel() < size:
                buffer = self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
                self._views.clear()  # those of smaller buffers keep them alive
            if len(self._views) >= VIEWS:
                self._views.clear()
            view = self._views[name, shape] = buffer[:size].view(shape)
        return view


_kept = local()


def workspace(dtype: torch.dtype, device: torch.device) -> Workspace:
    """A workspace for one call: on a CPU this thread's own, from call to call; elsewhere torch keeps freed memory."""
    if device.type != "cpu":
        return Workspace(dtype, device)
    spaces: dict[torch.dtype, Workspace] = _kept.__dict__.setdefault("spaces", {})
    return spaces.setdefault(dtype, Workspace(dtype, device))
