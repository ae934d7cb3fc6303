"""What a network of blocks is shown: places, who attends to whom, and the keys and values of blocks that are written."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion.objectives.block import block_numbers, doubled_attention

KeyValue = tuple[Tensor, Tensor]


@dataclass
class PrefixCache:
    """Keys and values [B, heads, P, head_dim] of each layer for the P clean tokens before; `keep` more are added."""

    layers: list[KeyValue] = field(default_factory=list)
    keep: int = 0

    def before(self, layer: int, keys: Tensor, values: Tensor) -> KeyValue:
        """Keys and values [B, heads, P + N, head_dim] of the tokens before and of the N given.

        Of the N the first `keep` are kept.
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
    """How a network of blocks reads the tokens that it is given.

    Fields:
        places: int64 [N], the place of each token in its sequence, where positions are told.
        attend: bool [N, P + N], True where a token may attend to those of the cache and to those given.
        cache: keys and values of the P tokens before; None: there are none.
    """

    places: Tensor
    attend: Tensor
    cache: PrefixCache | None = None

    @classmethod
    def doubled(cls, length: int, block_size: int, device: torch.device) -> "Blocks":
        """The reading of [x_t ; x_0] in training."""
        place = torch.arange(length, device=device)
        return cls(torch.cat([place, place]), doubled_attention(length, block_size, device))


@dataclass(frozen=True)
class _Kept:
    """Clean tokens [B, P] that were read, under which mask and condition (the tensors themselves), and what is kept."""

    tokens: Tensor
    mask: Tensor | None
    cond: Tensor | None
    cache: PrefixCache


class BlockReader:
    """A network of blocks as samplers see it: `(x_t, sigma)` gives the law in the block that is being written.

    The first block with a mask in any row is that block. Those before are clean; their keys and values are computed
    in the call that first needs them, and kept for as long as the tokens stay the same. The output is zero elsewhere.

    Arguments:
        network: called as `network(tokens, sigma, mask=, cond=, blocks=)`, sigma [B, N].
        is_masked: where tokens are masks; block_size: tokens of a block.
    """

    def __init__(self, network: Callable[..., Tensor], is_masked: Callable[[Tensor], Tensor], block_size: int) -> None:
        self.network, self.is_masked, self.block_size = network, is_masked, block_size
        self._kept: list[_Kept] = []

    def __call__(self, x_t: Tensor, sigma: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Output [B, L, dim] for x_t [B, L] at sigma [B]."""
        length = x_t.shape[1]
        masked = self.is_masked(x_t).any(0).nonzero()[:, 0]
        first = int(masked[0]) if masked.numel() else length - 1
        start = first // self.block_size * self.block_size
        stop = min(start + self.block_size, length)
        done, cache = self._known(x_t[:, :start], mask, cond)
        block = block_numbers(stop, self.block_size, x_t.device)
        # Clean tokens that are new come first, at sigma = 0, and do not see those of the block.
        blocks = Blocks(torch.arange(done, stop, device=x_t.device), block[done:, None] >= block[None], cache)
        levels = torch.where(blocks.places < start, 0.0, sigma[:, None])
        cache.keep = start - done
        seen = None if mask is None else mask[:, :stop]
        output = self.network(x_t[:, done:stop], levels, mask=seen, cond=cond, blocks=blocks)
        self._keep(_Kept(x_t[:, :start], mask, cond, cache))
        return torch.nn.functional.pad(output[:, start - done :], (0, 0, start, length - stop))

    def _known(self, clean: Tensor, mask: Tensor | None, cond: Tensor | None) -> tuple[int, PrefixCache]:
        """How many of the clean tokens [B, P] have keys and values, and those."""
        for kept in self._kept:
            done = kept.tokens.shape[1]
            if kept.cond is cond and kept.mask is mask and torch.equal(kept.tokens, clean[:, :done]):
                return done, kept.cache
        return 0, PrefixCache()

    def _keep(self, new: "_Kept") -> None:
        """Put a prefix first; two are kept, as guidance asks with the condition and without it in turn."""
        others = [kept for kept in self._kept if kept.cond is not new.cond]
        self._kept = [new, *others[:1]]
