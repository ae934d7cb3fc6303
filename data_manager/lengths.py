"""How long things are: least, mean, most, and a histogram small enough for a line of text."""

from collections.abc import Sequence
from dataclasses import dataclass

BUCKETS = 16
_BARS = "▁▂▃▄▅▆▇█"
_PLAIN = ".:-=+*%#"


@dataclass(frozen=True)
class Lengths:
    """Statistics of lengths; `counts` are those of `BUCKETS` equal ranges from the least to the most."""

    least: float
    mean: float
    most: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Lengths | None":
        """The statistics of some lengths, None where there are none."""
        import numpy as np

        if len(values) == 0:
            return None
        array = np.asarray(values, dtype=np.float64)
        least, most = float(array.min()), float(array.max())
        counts = np.histogram(array, bins=BUCKETS, range=(least, most))[0] if most > least else [len(array)]
        return cls(least, float(array.mean()), most, tuple(int(count) for count in counts))

    def text(self, unit: str, decimals: int = 0, *, plain: bool = False) -> str:
        """`15 to 256, mean 31.0 tokens  ▁▂█`; `plain` draws with ASCII alone."""
        if self.least == self.most:
            return f"all {self.least:,.{decimals}f} {unit}"
        spread = f"{self.least:,.{decimals}f} to {self.most:,.{decimals}f}, mean {self.mean:,.1f} {unit}"
        return f"{spread}  {histogram(self.counts, plain=plain)}"


def histogram(counts: Sequence[int], *, plain: bool = False) -> str:
    """A character a count, as high as it is in proportion to the largest; a space for none."""
    bars = _PLAIN if plain else _BARS
    largest = max(counts)
    return "".join(bars[-(-count * len(bars) // largest) - 1] if count else " " for count in counts)
