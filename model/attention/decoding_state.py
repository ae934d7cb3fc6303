"""State of a decoder between two tokens: the kv cache or sums of each layer, and the length of each row.

Linear attention keeps sums of constant size (Katharopoulos et al. 2020, arXiv 2006.16236), so a token costs the same
time and memory after any prefix; every other core gets a cache of keys and values (a kv cache).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.attention.cores import LinearCore, LinearState, SoftmaxCore
from model.transformer.inputs import InputError

KEYS_PER_UPDATE = 1024
"""Keys of a prompt whose features are in memory at the same time."""


class CoreState(ABC):
    """State that one core keeps of earlier keys and values; k and v have G key-value heads.

    A custom core that keeps less than all keys defines a method `decoding_state(capacity) -> CoreState`.
    """

    @abstractmethod
    def update(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Add M keys and values [B, G, M, D]; `key_mask` bool [B, M] is True at keys that may be attended to."""

    @abstractmethod
    def attend(self, q: Tensor) -> Tensor:
        """Return the attention of queries [B, H, N, D] to every key added so far: [B, H, N, D]."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` int64 [B'], in that order; a row may be repeated."""


class KeyValueCache(CoreState):
    """Cache of all keys and values, [B, G, N, D] each; `capacity` positions are reserved after those of the prompt."""

    def __init__(self, core: nn.Module, capacity: int) -> None:
        self.core: Callable[..., Tensor] = core
        self.capacity = capacity
        self.is_softmax = isinstance(core, SoftmaxCore)  # which takes any number of heads
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.mask: Tensor | None = None  # [B, N], None while no key is masked

    def update(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Append keys and values; a full cache doubles its size."""
        end = self.length + k.shape[2]
        if self.keys is None or self.values is None:
            self.keys, self.values = _pad_positions(k, self.capacity), _pad_positions(v, self.capacity)
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

    def attend(self, q: Tensor) -> Tensor:
        """Call the core with the queries and all keys, which is causal attention for a query at the newest position."""
        assert self.keys is not None
        assert self.values is not None
        k, v = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        key_mask = None if self.mask is None else self.mask[:, : self.length]
        if self.is_softmax:
            return self.core(_group_heads(q, k), k, v, key_mask=key_mask, causal=False).reshape(q.shape)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return self.core(q, k, v, key_mask=key_mask, causal=False)

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` by copying them."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, rows)

    def _grow(self, needed: int) -> None:
        assert self.keys is not None
        assert self.values is not None
        more = max(needed, 2 * self.keys.shape[2]) - self.keys.shape[2]
        self.keys, self.values = _pad_positions(self.keys, more), _pad_positions(self.values, more)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(self.mask.shape[0], more)], dim=1)


class RunningSums(CoreState):
    """Sums of linear attention, whose size does not depend on the number of earlier keys."""

    def __init__(self, core: LinearCore) -> None:
        self.core = core
        self.state: LinearState | None = None

    def update(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> None:
        """Add the features of the keys in parts, so that those of a long prompt are never in memory at once."""
        state = self.core.initial_state(k) if self.state is None else self.state
        for start in range(0, k.shape[2], KEYS_PER_UPDATE):
            part = slice(start, start + KEYS_PER_UPDATE)
            mask = None if key_mask is None else key_mask[:, part]
            state = self.core.update(state, k[:, :, part], v[:, :, part], key_mask=mask)
        self.state = state

    def attend(self, q: Tensor) -> Tensor:
        """Divide the sums that the features of the queries select."""
        assert self.state is not None
        return self.core.attend(self.state, _group_heads(q, self.state.sums)).reshape(q.shape)

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows` by copying them."""
        if self.state is not None:
            self.state = self.state.select(rows)


def make_core_state(core: nn.Module, capacity: int) -> CoreState:
    """Return an empty state for `core`; `capacity` is the number of keys after the prompt's, 0 if unknown."""
    own: Callable[[int], CoreState] | None = getattr(core, "decoding_state", None)
    if own is not None:
        return own(capacity)
    return RunningSums(core) if isinstance(core, LinearCore) else KeyValueCache(core, capacity)


class LayerState(NamedTuple):
    """State of one layer: the cache of its self-attention, and the keys and values of its context, computed once.

    Outside decoding there is no cache, and the context is the tensor [B, M, d_model] itself.
    """

    cache: CoreState | None
    context: CoreState | Tensor | None

    def select(self, rows: Tensor, *, context: bool) -> None:
        """Keep the batch rows `rows` int64 [B'] of the cache, and with `context` those of the context too."""
        if self.cache is not None:
            self.cache.select(rows)
        if context and isinstance(self.context, CoreState):
            self.context.select(rows)


class DecodingState:
    """State of all layers, and the number of tokens of each row so far: `lengths` int64 [B], at most `longest`.

    `PerformerDecoder.start` creates it; `PerformerDecoder.step` changes it in place.
    """

    def __init__(self, layers: list[LayerState], lengths: Tensor, longest: int) -> None:
        self.layers, self.lengths, self.longest = layers, lengths, longest

    def select(self, rows: Tensor, *, context: bool = True) -> None:
        """Keep the batch rows `rows` int64 [B']; `context=False` if each kept row has the context of its new index."""
        for layer in self.layers:
            layer.select(rows, context=context)
        self.lengths = self.lengths.index_select(0, rows)


def align_left(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real tokens of rows x [B, N, ...], True in `mask` bool [B, N], to the front; return them and their mask.

    Padding may be on either side. Raises InputError for a row without a token and for padding between tokens.
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


def _pad_positions(x: Tensor, more: int) -> Tensor:
    """Copy x [B, G, M, D] with `more` uninitialised positions after it; x may be a view of a larger tensor."""
    longer = x.new_empty(*x.shape[:2], x.shape[2] + more, x.shape[3])
    longer[:, :, : x.shape[2]] = x
    return longer


def _group_heads(q: Tensor, k: Tensor) -> Tensor:
    """Reshape queries [B, H, N, D] to [B, G, H / G * N, D]: heads that share keys become further queries."""
    return q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
