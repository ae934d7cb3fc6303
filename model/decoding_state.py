"""What a decoder keeps between two tokens: for each layer, what its cores have seen, and where each row stands.

Linear attention keeps sums of constant size (Katharopoulos et al. 2020, arXiv 2006.16236), so that a token costs the
same time and memory after any prefix; every other core gets a cache of keys and values.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.attention_core import LinearCore, SoftmaxCore
from model.inputs import InputError
from model.linear_attention import LinearState

ABSORBED_AT_ONCE = 1024
"""Keys of a prompt whose features are held at the same time."""


class CoreState(ABC):
    """What one core keeps of the keys and values that it has been shown; k and v have the key-value heads G.

    A core of your own may keep less than all keys: give it a method `decoding_state(room) -> CoreState`.
    """

    @abstractmethod
    def absorb(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Add M keys and values [B, G, M, D]; `key_mask` bool [B, M] is True at those that may be seen."""

    @abstractmethod
    def read(self, q: Tensor) -> Tensor:
        """Attention of queries [B, H, N, D] to every key absorbed so far: [B, H, N, D]."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` int64 [B'], in that order; a row may be kept more than once."""


class KeyValueCache(CoreState):
    """All keys and values, [B, G, capacity, D] each; `room` places are set aside behind the first ones absorbed."""

    def __init__(self, core: nn.Module, room: int) -> None:
        self.core: Callable[..., Tensor] = core
        self.room = room
        self.core_is_ours = isinstance(core, SoftmaxCore)  # and asks nothing of the number of heads
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.mask: Tensor | None = None  # [B, capacity], None while every key may be seen

    def absorb(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Write behind what is there; a full cache doubles."""
        end = self.length + k.shape[2]
        if self.keys is None or self.values is None:
            self.keys, self.values = _longer(k, self.room), _longer(v, self.room)
        else:
            if end > self.keys.shape[2]:
                self._grow(end)
            self.keys[:, :, self.length : end] = k
            self.values[:, :, self.length : end] = v
        if key_mask is not None and self.mask is None:
            self.mask = torch.ones(k.shape[0], self.keys.shape[2], dtype=torch.bool, device=k.device)
        if key_mask is not None and self.mask is not None:
            self.mask[:, self.length : end] = key_mask
        self.length = end

    def read(self, q: Tensor) -> Tensor:
        """Give the core the queries with all keys: at the newest place, that is what causal attention sees."""
        assert self.keys is not None
        assert self.values is not None
        k, v = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        key_mask = None if self.mask is None else self.mask[:, : self.length]
        if self.core_is_ours:
            return self.core(_grouped(q, k), k, v, key_mask=key_mask, causal=False).reshape(q.shape)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return self.core(q, k, v, key_mask=key_mask, causal=False)

    def select(self, rows: Tensor) -> None:
        """Copy the rows that are kept."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, rows)

    def _grow(self, needed: int) -> None:
        assert self.keys is not None
        assert self.values is not None
        more = max(needed, 2 * self.keys.shape[2]) - self.keys.shape[2]
        self.keys, self.values = _longer(self.keys, more), _longer(self.values, more)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(self.mask.shape[0], more)], dim=1)


class RunningSums(CoreState):
    """The sums of linear attention, of a size that does not depend on how many keys were absorbed."""

    def __init__(self, core: LinearCore) -> None:
        self.core = core
        self.state: LinearState | None = None

    def absorb(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Add the features of the keys, in parts, so that those of a long prompt are never held at once."""
        state = self.core.initial_state(k) if self.state is None else self.state
        for start in range(0, k.shape[2], ABSORBED_AT_ONCE):
            part = slice(start, start + ABSORBED_AT_ONCE)
            mask = None if key_mask is None else key_mask[:, part]
            state = self.core.absorb(state, k[:, :, part], v[:, :, part], key_mask=mask)
        self.state = state

    def read(self, q: Tensor) -> Tensor:
        """Read the sums with the features of the queries."""
        assert self.state is not None
        return self.core.read(self.state, _grouped(q, self.state.sums)).reshape(q.shape)

    def select(self, rows: Tensor) -> None:
        """Copy the rows that are kept."""
        if self.state is not None:
            self.state = self.state.select(rows)


def make_core_state(core: nn.Module, room: int) -> CoreState:
    """An empty state that fits `core`; `room` is how many keys will follow the first ones, 0 where not known."""
    own: Callable[[int], CoreState] | None = getattr(core, "decoding_state", None)
    if own is not None:
        return own(room)
    return RunningSums(core) if isinstance(core, LinearCore) else KeyValueCache(core, room)


class LayerState(NamedTuple):
    """One layer: what its self-attention has seen, and its keys of the context, computed once.

    Outside decoding nothing is kept, and the context is the tensor [B, M, d_model] itself.
    """

    seen: CoreState | None
    context: CoreState | Tensor | None

    def select(self, rows: Tensor, *, context: bool) -> None:
        """Keep the batch rows `rows` int64 [B'], those of the context too where asked."""
        if self.seen is not None:
            self.seen.select(rows)
        if context and isinstance(self.context, CoreState):
            self.context.select(rows)


class DecodingState:
    """All layers, and how many tokens each row has so far: `lengths` int64 [B], at most `longest`.

    Made by `PerformerDecoder.start`; `PerformerDecoder.step` changes it in place.
    """

    def __init__(self, layers: list[LayerState], lengths: Tensor, longest: int) -> None:
        self.layers, self.lengths, self.longest = layers, lengths, longest

    def select(self, rows: Tensor, *, context: bool = True) -> None:
        """Keep the batch rows `rows` int64 [B']; `context=False` where they stay with the same context each."""
        for layer in self.layers:
            layer.select(rows, context=context)
        self.lengths = self.lengths.index_select(0, rows)


def aligned_left(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x [B, N, ...] with their real tokens, True in `mask` bool [B, N], moved to the front, and their mask.

    Padding may stand on either side. Raises InputError for a row without a token and for padding inside one.
    """
    starts = mask.clone()
    starts[:, 1:] &= ~mask[:, :-1]
    runs = starts.sum(1).tolist()
    for row, count in enumerate(runs):
        if count == 0:
            raise InputError(f"the prompt of row {row} is empty: its mask is all False; give it at least one token")
        if count > 1:
            raise InputError(f"the mask of row {row} has padding between tokens; padding goes before or after them")
    order = (~mask).byte().argsort(dim=1, stable=True)  # [B, N], real tokens first
    longest = int(mask.sum(1).max())
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[rows, order][:, :longest], mask.gather(1, order)[:, :longest]


def _longer(x: Tensor, more: int) -> Tensor:
    """x [B, G, M, D] with `more` empty places behind; never x itself, which may be a view of something larger."""
    longer = x.new_empty(*x.shape[:2], x.shape[2] + more, x.shape[3])
    longer[:, :, : x.shape[2]] = x
    return longer


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """Queries [B, H, N, D] as [B, G, H / G * N, D]: heads that share keys are read as further queries."""
    return q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
