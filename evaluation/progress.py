"""Progress on a terminal; nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], object]]:
    """A bar on stderr for work that takes more than half a second; gives what is called with each piece's size."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar = tqdm(desc=label, total=total, unit=unit or "it", file=sys.stderr, disable=None, leave=False, delay=0.5)
    with bar:
        yield bar.update
