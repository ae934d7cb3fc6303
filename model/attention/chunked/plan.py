"""Split of an operator call into blocks of batch rows and groups of chunks, and reused buffers."""

from collections.abc import Callable, Sequence
from math import prod
from threading import local
from typing import NamedTuple, cast

import torch
from torch import Tensor, sym_max, sym_min

CHUNK = 64
"""Tokens of a chunk: a longer one has more quadratic work inside, and fewer states."""
CHUNKS_AT_ONCE = {"cpu": 24}
"""Chunks of a group over all heads by device: on a CPU their features should stay in the cache."""
GROUP_BYTES = 2**30
"""Bytes of the three largest buffers of a group on other devices, where a group has about a hundred launches."""

VIEWS = 1000
"""Number of views that a workspace caches."""

Choice = Callable[[int, int], int]


class Group(NamedTuple):
    """`chunks` neighbouring chunks of `length` tokens each, from token `start` on."""

    start: int
    chunks: int
    length: int

    @property
    def tokens(self) -> slice:
        """Slice of the group's tokens."""
        return slice(self.start, self.start + self.chunks * self.length)


class Plan(NamedTuple):
    """Batch rows of a block and the groups of a sequence; forward and backward of a call have the same plan."""

    batch_block: int
    chunks: int
    groups: list[Group]

    def blocks(self, batch: int) -> list[slice]:
        """Return the batch rows of each block."""
        return [slice(i, min(i + self.batch_block, batch)) for i in range(0, batch, self.batch_block)]


def chunks_at_once(device: str, nb_features: int, width: int, dtype: torch.dtype) -> int:
    """Return the chunks of a group over all heads: for m features and values of `width` E, on a device type."""
    if device in CHUNKS_AT_ONCE:
        return CHUNKS_AT_ONCE[device]
    larger = cast(Choice, sym_max)
    numbers = larger(nb_features * larger(width, CHUNK), CHUNK * CHUNK)
    return larger(1, GROUP_BYTES // (3 * numbers * dtype.itemsize))


def block_sizes(shape: Sequence[int], at_once: int) -> tuple[int, int]:
    """Return the batch rows of a block and chunks of a group for [batch, heads, tokens, D], `at_once` over all heads."""
    batch, heads, tokens = shape[:3]
    # sym_max and sym_min: under torch.compile with dynamic shapes the sizes are symbols.
    larger, smaller = cast(Choice, sym_max), cast(Choice, sym_min)
    rows = larger(1, smaller(batch, at_once // larger(1, heads)))
    return rows, larger(1, smaller(tokens // CHUNK, at_once // larger(1, rows * heads)))


def count_groups(shape: Sequence[int], at_once: int) -> int:
    """Return the number of groups in the plan of `make_plan`."""
    _, chunks = block_sizes(shape, at_once)
    whole, rest = shape[2] // CHUNK, shape[2] % CHUNK
    return (whole + chunks - 1) // chunks + (rest + CHUNK - 1) // CHUNK


def make_plan(shape: Sequence[int], at_once: int, *, has_chunks: bool = True) -> Plan:
    """Make the plan for [batch, heads, tokens, D]; the last chunk may be shorter.

    Without chunks, the tokens of a group are one chunk of any length.
    """
    tokens = shape[2]
    if not has_chunks:
        batch_block, chunks = block_sizes((*shape[:2], tokens + CHUNK - 1), at_once)
        starts = range(0, tokens, chunks * CHUNK)
        return Plan(batch_block, chunks, [Group(start, 1, min(chunks * CHUNK, tokens - start)) for start in starts])
    batch_block, chunks = block_sizes(shape, at_once)
    whole, rest = divmod(tokens, CHUNK)
    groups = [Group(i * CHUNK, min(chunks, whole - i), CHUNK) for i in range(0, whole, chunks)]
    if rest:
        groups.append(Group(whole * CHUNK, 1, rest))
    return Plan(batch_block, chunks, groups)


class Workspace:
    """Reused buffers by name: new memory for every chunk would take as long as the matrix products."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised contiguous buffer, valid until the next call with the same name."""
        view = self._views.get((name, shape))
        return self._make(name, shape) if view is None else view

    def _make(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size, buffer = prod(shape), self._buffers.get(name)
        with torch.inference_mode(False):  # a tensor of that mode could not be written to outside it
            if buffer is None or buffer.numel() < size:
                buffer = self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
                self._views.clear()  # views of the smaller buffer would keep it alive
            if len(self._views) >= VIEWS:
                self._views.clear()
            view = self._views[name, shape] = buffer[:size].view(shape)
        return view


_kept = local()


def workspace(dtype: torch.dtype, device: torch.device) -> Workspace:
    """Return a workspace: on a CPU one per thread for all calls; on other devices torch caches freed memory."""
    if device.type != "cpu":
        return Workspace(dtype, device)
    spaces: dict[torch.dtype, Workspace] = _kept.__dict__.setdefault("spaces", {})
    return spaces.setdefault(dtype, Workspace(dtype, device))
