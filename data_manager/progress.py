"""Progress bars: on stderr, only where it is a terminal, and only for work that takes a while."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import TypeVar

from yaml_config.errors import printable

Item = TypeVar("Item")


def progress(items: Iterable[Item], label: str, *, total: int | None = None) -> Iterable[Item]:
    """`items`, with a bar once half a second has gone by."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: Iterable[Item] = tqdm(
        items, printable(label), total=total, file=sys.stderr, disable=None, leave=False, delay=0.5
    )
    return bar


@contextmanager
def quiet(module: ModuleType) -> Iterator[None]:
    """Keep what a recipe prints off stdout, and its bars (its global `tqdm`) off a stderr that is no terminal."""
    bar = getattr(module, "tqdm", None)
    try:
        if bar is not None:
            module.tqdm = partial(bar, disable=None)  # type: ignore[attr-defined]
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if bar is not None:
            module.tqdm = bar  # type: ignore[attr-defined]


@contextmanager
def counted(label: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """A bar over work whose steps are of different sizes; gives what is called with the size of each."""
    from tqdm import tqdm

    with tqdm(
        desc=printable(label), unit=unit, total=total, unit_scale=True, file=sys.stderr, disable=None, delay=0.5
    ) as bar:
        yield bar.update
