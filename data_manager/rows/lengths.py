"""Statistics of lengths: minimum, mean, maximum, and a histogram that fits in a line of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


BUCKETS = 16


_BATCH = 1000


_BARS = "▁▂▃▄▅▆▇█"


_ASCII_BARS = ".:-=+*%#"


@dataclass(frozen=True)
class Lengths:
    """Statistics of lengths; `counts` is a histogram of `BUCKETS` equal bins from minimum to maximum."""

    least: float
    mean: float
    most: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Lengths | None":
        """Compute the statistics; return None for no lengths."""
        import numpy as np

        if len(values) == 0:
            return None
        array = np.asarray(values, dtype=np.float64)
        least, most = float(array.min()), float(array.max())
        counts = np.histogram(array, bins=BUCKETS, range=(least, most))[0] if most > least else [len(array)]
        return cls(least, float(array.mean()), most, tuple(int(count) for count in counts))

    def text(self, unit: str, decimals: int = 0, *, plain: bool = False) -> str:
        """Format as `15 to 256, mean 31.0 tokens  ▁▂█`; `plain` uses ASCII only."""
        if self.least == self.most:
            return f"all {self.least:,.{decimals}f} {unit}"
        spread = f"{self.least:,.{decimals}f} to {self.most:,.{decimals}f}, mean {self.mean:,.1f} {unit}"
        return f"{spread}  {histogram(self.counts, plain=plain)}"


def histogram(counts: Sequence[int], *, plain: bool = False) -> str:
    """Draw a histogram, one character for each count, scaled to the largest; a space for zero."""
    bars = _ASCII_BARS if plain else _BARS
    largest = max(counts)
    return "".join(bars[-(-count * len(bars) // largest) - 1] if count else " " for count in counts)


# Row lengths of a table, computed without reading the ids.


def true_counts(rows: Any, column: str) -> "NDArray[np.int64]":
    """Return, for a column of bools of a table, how many are True in each row."""
    import numpy as np

    table = rows.with_format("numpy")
    found = [table[list(range(start, min(start + _BATCH, len(table))))] for start in range(0, len(table), _BATCH)]
    return np.array([int(np.sum(mask)) for batch in found for mask in batch[column]], dtype=np.int64)


def row_lengths(rows: Any) -> "dict[str, NDArray[np.int64]]":
    """Return, for each column of ids of a `datasets.Dataset`, the number of tokens in each row."""
    import numpy as np
    import pyarrow.compute as pc  # type: ignore[import-untyped,unused-ignore]

    own = getattr(rows, "row_lengths", None)  # of memory-mapped shards
    if own is not None:
        return dict(own())
    indices = None if rows._indices is None else rows._indices.column(0).to_numpy()
    found = {}
    for name in rows.column_names:
        if name.endswith("_ids"):
            lengths = pc.list_value_length(rows.data.column(name)).to_numpy().astype(np.int64)
            found[name] = lengths if indices is None else lengths[indices]
    return found
