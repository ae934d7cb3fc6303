"""What a network of blocks is shown: places, who attends to whom, and the keys and values of blocks that are written."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion.block import block_numbers, doubled_attention

KeyValue = tuple[Tensor, Tensor]


@dataclass
class PrefixCache:
    """Keys and values [B, heads, P, head_dim] of each layer for the P clean tokens before, and whether to add to them."""

    layers: list[KeyValue] = field(default_factory=list)
    grows: bool = False

    def before(self, layer: int, keys: Tensor, values: Tensor) -> KeyValue:
        """Keys and values of the tokens before and of those given."""
        if layer < len(self.layers):
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        if self.grows:
            self.layers[layer : layer + 1] = [(keys, values)]
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


class BlockReader:
    """A network of blocks as samplers see it: `(x_t, sigma)` gives the law in the block that is being written.

    The first block with a mask in any row is that block; those before are clean, and their keys and values are computed
    once and kept for as long as the tokens stay the same. The output is zero elsewhere: no law of later blocks is known.

    Arguments:
        network: called as `network(tokens, sigma, mask=, cond=, blocks=)`.
        is_masked: where tokens are masks; block_size: tokens of a block.
    """

    def __init__(
        self, network: Callable[..., Tensor], is_masked: Callable[[Tensor], Tensor], block_size: int
    ) -> None:
        self.network, self.is_masked, self.block_size = network, is_masked, block_size
        self._kept: dict[int, tuple[Tensor, PrefixCache]] = {}

    def __call__(self, x_t: Tensor, sigma: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Output [B, L, dim] for x_t [B, L] at sigma [B]."""
        masked = self.is_masked(x_t).any(0).nonzero()[:, 0]
        first = int(masked[0]) if masked.numel() else x_t.shape[1] - 1
        start = first // self.block_size * self.block_size
        stop = min(start + self.block_size, x_t.shape[1])
        cache = self._prefix(x_t[:, :start], mask, cond)
        place = torch.arange(start, stop, device=x_t.device)
        everything = torch.ones(stop - start, stop, dtype=torch.bool, device=x_t.device)
        blocks = Blocks(place, everything, cache)
        seen = None if mask is None else mask[:, :stop]
        output = self.network(x_t[:, start:stop], sigma, mask=seen, cond=cond, blocks=blocks)
        return torch.nn.functional.pad(output, (0, 0, start, x_t.shape[1] - stop))

    def _prefix(self, clean: Tensor, mask: Tensor | None, cond: Tensor | None) -> PrefixCache:
        """Keys and values of clean tokens [B, P], from those kept where they begin with the same ones."""
        known, cache = self._kept.get(id(cond), (clean[:, :0], PrefixCache()))
        done = known.shape[1]
        if known.shape[0] != clean.shape[0] or not torch.equal(known, clean[:, :done]):
            cache, done = PrefixCache(), 0
        if done < clean.shape[1]:
            place = torch.arange(done, clean.shape[1], device=clean.device)
            block = block_numbers(clean.shape[1], self.block_size, clean.device)
            blocks = Blocks(place, block[done:, None] >= block[None], cache)
            cache.grows = True
            nothing = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
            seen = None if mask is None else mask[:, : clean.shape[1]]
            self.network(clean[:, done:], nothing, mask=seen, cond=cond, blocks=blocks)
            cache.grows = False
        self._kept[id(cond)] = (clean, cache)
        return cache
