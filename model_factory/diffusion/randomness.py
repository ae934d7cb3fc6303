"""A random stream for each row of a batch, so that a row's draws do not depend on the other rows.

The streams are counter-based (SplitMix64, Steele et al. 2014, in int64 arithmetic): one call draws for all rows, and
draws the same numbers on any device. All rows of one object have the same counter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_factory.diffusion.errors import ShapeError

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)))


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift right logically: int64 shifts copy the sign bit, which is masked here."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def hash_words(words: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser to int64 of any shape: a bijection that decorrelates neighbouring values."""
    for bits, multiplier in _MULTIPLIERS:
        words = (words ^ _shift_right(words, bits)) * multiplier
    return words ^ _shift_right(words, 31)


def to_unit_interval(words: Tensor) -> Tensor:
    """Convert the upper 53 bits of int64 words, of any shape, to float64 in [0, 1)."""
    return _shift_right(words, 11).to(torch.float64) * 2.0**-53


ROW_WIDTH = 2**20
"""Width of streams that must not depend on the padding of a batch: the longest row that they serve."""


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of any shape on a device; the host does not wait for the copy."""
    if values.device == device:
        return values
    pinned = values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values
    return pinned.to(device, non_blocking=True)


class RowGenerators:
    """One random stream for each row; `rand(L)` draws float64 uniforms [rows, L] in [0, 1).

    With a `width`, numbers are counted as if each axis had that many, so that a row's numbers do not depend on how far it
    is padded. They are for a network on `device`, by default that of the keys, to which `uniform` and `normal` move them.
    """

    def __init__(
        self, keys: Tensor, counter: int = 0, width: int = 0, device: torch.device | str | None = None
    ) -> None:
        self.keys = keys
        self.counter = counter
        self.width = width
        self.device = keys.device if device is None else torch.device(device)

    @classmethod
    def from_generator(
        cls, generator: torch.Generator | None, rows: int, device: torch.device | str = "cpu"
    ) -> "RowGenerators":
        """Create streams for `rows` rows, whose keys stay on the CPU; four calls for 4 rows equal one call for 16."""
        source = generator.device if generator is not None else torch.device("cpu")
        seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator, device=source)
        return cls(hash_words(seeds.cpu()), device=device)

    @classmethod
    def from_seed(cls, seed: int, rows: Tensor, width: int = 0) -> "RowGenerators":
        """Create streams from a seed and the int index of each row in the global batch, [B]."""
        start = hash_words(torch.full_like(rows, _wrap(seed), dtype=torch.int64))
        return cls(hash_words(start + rows.to(torch.int64) * _GOLDEN), width=width)

    def __len__(self) -> int:
        return self.keys.shape[0]

    def rand(self, *shape: int) -> Tensor:
        """Draw float64 uniforms in [0, 1) of shape [rows, *shape], on the device of the keys, advancing each row's stream."""
        stride, steps = 1, torch.zeros((), dtype=torch.int64, device=self.keys.device)
        for size in reversed(shape):
            along = torch.arange(size, device=self.keys.device) * stride
            steps = along.view(-1, *[1] * steps.dim()) + steps
            stride *= max(size, self.width)
        words = self.keys.view(-1, *[1] * len(shape)) + (steps + (self.counter + 1)) * _GOLDEN
        self.counter += stride
        return to_unit_interval(hash_words(words))

    def __getitem__(self, rows: slice) -> "RowGenerators":
        """Return the streams of a slice of rows, at the current counter."""
        return RowGenerators(self.keys[rows], self.counter, self.width, self.device)


Randomness = torch.Generator | RowGenerators | None


def uniform(shape: Sequence[int], generator: Randomness, device: torch.device | str = "cpu") -> Tensor:
    """Draw float64 uniforms in [0, 1) of the given shape.

    Raises ShapeError unless RowGenerators have one stream for each row of `shape`.
    """
    if not isinstance(generator, RowGenerators):
        source = generator.device if generator is not None else device
        return torch.rand(tuple(shape), dtype=torch.float64, generator=generator, device=source).to(device)
    if len(generator) != shape[0]:
        raise ShapeError("generator", f"{len(generator)} rows", f"{shape[0]}, one for each row of the batch")
    return upload(generator.rand(*shape[1:]), torch.device(device))


def normal(
    shape: Sequence[int], generator: Randomness, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw standard normals of the given shape and dtype.

    Raises ShapeError unless RowGenerators have one stream for each row of `shape`.
    """
    if not isinstance(generator, RowGenerators):
        source = generator.device if generator is not None else device
        return torch.randn(tuple(shape), dtype=dtype, generator=generator, device=source).to(device)
    drawn: Tensor = torch.special.ndtri(uniform(shape, generator, device).clamp_min(2.0**-54))  # it is infinite at 0
    return drawn.to(dtype)


def _wrap(seed: int) -> int:
    """Wrap a Python integer to the int64 with the same lower 64 bits."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
