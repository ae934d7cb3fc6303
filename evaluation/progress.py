"""Progress bars, shown only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], object]]:
    """Show a progress bar on stderr after half a second of work; yield the function that advances it by a count."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar = tqdm(desc=label, total=total, unit=unit or "it", file=sys.stderr, disable=None, leave=False, delay=0.5)
    with bar:
        yield bar.update
