"""How an operator call is cut: blocks of batch rows, groups of chunks that are computed together, reused buffers."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
"""Tokens of a chunk: quadratic work inside grows with it, the number of states falls."""
CHUNKS_AT_ONCE = {"cpu": 32}
"""Chunks over all heads of a group: on a CPU their features should stay in the cache; elsewhere see below."""
CHUNKS_AT_ONCE_ELSEWHERE = 1024


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


def make_plan(shape: Sequence[int], device: str) -> Plan:
    """Plan for tensors [batch, heads, tokens, D] on a device of this type; the last chunk may be shorter."""
    batch, heads, tokens = shape[:3]
    at_once = CHUNKS_AT_ONCE.get(device, CHUNKS_AT_ONCE_ELSEWHERE)
    batch_block = max(1, min(batch, at_once // max(1, heads)))
    whole, rest = divmod(tokens, CHUNK)
    chunks = max(1, min(whole, at_once // max(1, batch_block * heads)))
    groups = [Group(i * CHUNK, min(chunks, whole - i), CHUNK) for i in range(0, whole, chunks)]
    if rest:
        groups.append(Group(whole * CHUNK, 1, rest))
    return Plan(batch_block, chunks, groups)


class Workspace:
    """Buffers by name, allocated once a call: fresh memory for every chunk costs as much as some of the products."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A contiguous buffer with anything in it, valid until the next call with the same name."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return buffer[:size].view(shape)
