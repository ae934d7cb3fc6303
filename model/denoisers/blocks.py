"""Inputs of a block diffusion network: positions, an attention mask, and cached keys and values of finished blocks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.attention.documents import Documents
from model_factory.diffusion.objectives.block import attention_of_blocks, block_numbers, doubled_attention

KeyValue = tuple[Tensor, Tensor]


@dataclass
class PrefixCache:
    """KV cache: keys and values [B, heads, P, head_dim] of each layer for the P clean tokens before.

    `keep` is the number of new tokens whose keys and values are added.
    """

    layers: list[KeyValue] = field(default_factory=list)
    keep: int = 0

    def before(self, layer: int, keys: Tensor, values: Tensor) -> KeyValue:
        """Return keys and values [B, heads, P + N, head_dim] of the cached tokens and the N given ones.

        The first `keep` of the N are added to the cache.
        """
        known = 0
        if layer < len(self.layers):
            old_keys, old_values = self.layers[layer]
            known = old_keys.shape[2]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        if self.keep:
            end = known + self.keep
            self.layers[layer : layer + 1] = [(keys[:, :, :end], values[:, :, :end])]
        return keys, values


@dataclass(frozen=True)
class Blocks:
    """Positions, attention mask and KV cache of the tokens that a block diffusion network is given.

    Fields:
        places: int64 [N], the position of each token in its sequence; [B, N] in packed rows, counted in each document.
        attend: bool [N, P + N], in packed rows [B, N, N], True where a token may attend to a cached or given one.
        cache: keys and values of the P tokens before; None if there are no such tokens.
    """

    places: Tensor
    attend: Tensor
    cache: PrefixCache | None = None

    @classmethod
    def doubled(cls, length: int, block_size: int, device: torch.device, documents: Tensor | None = None) -> "Blocks":
        """Return the positions and attention mask of [x_t ; x_0] in training.

        `documents` int [B, length] numbers the documents of packed rows; the blocks of each begin at its first token.
        """
        if documents is None:
            place = torch.arange(length, device=device)
            return cls(torch.cat([place, place]), doubled_attention(length, block_size, device))
        apart = Documents(documents)
        attend = attention_of_blocks(apart.positions // block_size) & apart.same.repeat(1, 2, 2)
        return cls(torch.cat([apart.positions, apart.positions], 1), attend)


@dataclass(frozen=True)
class _CachedPrefix:
    """Cache of clean tokens [B, P], with the tensors (mask, condition, source; compared by identity) it was made for."""

    tokens: Tensor
    given: tuple[Tensor | None, ...]
    cache: PrefixCache

    def covers(self, clean: Tensor, given: tuple[Tensor | None, ...]) -> bool:
        """Return True for a prefix of the clean tokens [B, P] with the same tensors."""
        is_same = all(own is other for own, other in zip(self.given, given, strict=True))
        return is_same and torch.equal(self.tokens, clean[:, : self.tokens.shape[1]])


class BlockReader:
    """Adapter from a block diffusion network to samplers: `(x_t, sigma)` gives the distribution in the current block.

    The current block is the first one with a mask in any row. Earlier blocks are clean; their keys and values are
    computed in the call that first needs them, and cached while the tokens stay the same. The output is zero elsewhere.

    Arguments:
        network: called as `network(tokens, sigma, mask=, cond=, context=, context_mask=, blocks=)`, sigma [B, N].
        is_masked: maps tokens to bool, True at masks.
        block_size: number of tokens in a block.
        is_cached: False for a network that ignores the cache of `Blocks`; it gets all tokens in every call.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        is_masked: Callable[[Tensor], Tensor],
        block_size: int,
        *,
        is_cached: bool = True,
    ) -> None:
        self.network, self.is_masked, self.block_size, self.is_cached = network, is_masked, block_size, is_cached
        self._cached: list[_CachedPrefix] = []

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Return the network's output [B, L, dim] for x_t [B, L] at sigma [B]; hidden bool [B, L] is cut like x_t."""
        length = x_t.shape[1]
        masked = self.is_masked(x_t).any(0).nonzero()[:, 0]
        first = int(masked[0]) if masked.numel() else length - 1
        start = first // self.block_size * self.block_size
        stop = min(start + self.block_size, length)
        given = (mask, cond, context, context_mask, hidden)
        done, cache = self._find_cache(x_t[:, :start], given)
        block = block_numbers(stop, self.block_size, x_t.device)
        # New clean tokens come first, at sigma = 0, and do not attend to those of the block.
        blocks = Blocks(torch.arange(done, stop, device=x_t.device), block[done:, None] >= block[None], cache)
        levels = torch.where(blocks.places < start, 0.0, sigma[:, None])
        cache.keep = start - done
        seen = None if mask is None else mask[:, :stop]
        source = {} if context is None else {"context": context, "context_mask": context_mask}
        source |= {} if hidden is None else {"hidden": hidden[:, done:stop]}
        output = self.network(x_t[:, done:stop], levels, mask=seen, cond=cond, blocks=blocks, **source)
        if self.is_cached:
            self._store(_CachedPrefix(x_t[:, :start], given, cache))
        return torch.nn.functional.pad(output[:, start - done :], (0, 0, start, length - stop))

    def _find_cache(self, clean: Tensor, given: tuple[Tensor | None, ...]) -> tuple[int, PrefixCache]:
        """Return the number of clean tokens [B, P] with cached keys and values, and their cache."""
        for prefix in self._cached:
            if prefix.covers(clean, given):
                return prefix.tokens.shape[1], prefix.cache
        return 0, PrefixCache()

    def _store(self, new: _CachedPrefix) -> None:
        """Store a prefix; two are kept, as guidance calls the network with and without the condition in turn."""
        others = [prefix for prefix in self._cached if not prefix.covers(new.tokens, new.given)]
        self._cached = [new, *others[:1]]
