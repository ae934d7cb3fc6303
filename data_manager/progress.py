"""Progress bars on stderr, only on a terminal and only for slow work."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import TypeVar

from model_factory.yaml_config.errors import escape_line

Item = TypeVar("Item")


def progress(items: Iterable[Item], label: str, *, total: int | None = None) -> Iterable[Item]:
    """Iterate over `items`, with a progress bar after half a second."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: Iterable[Item] = tqdm(
        items, escape_line(label), total=total, file=sys.stderr, disable=None, leave=False, delay=0.5
    )
    return bar


@contextmanager
def redirect_recipe_output(module: ModuleType) -> Iterator[None]:
    """Redirect a recipe's stdout to stderr; hide its bars (its global `tqdm`) unless stderr is a terminal."""
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
def progress_counter(label: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """Show a bar for steps of different sizes; yield a function to call with the size of each step."""
    from tqdm import tqdm

    with tqdm(
        desc=escape_line(label), unit=unit, total=total, unit_scale=True, file=sys.stderr, disable=None, delay=0.5
    ) as bar:
        yield bar.update


# Progress bars, shown only on a terminal.


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], object]]:
    """Show a progress bar on stderr after half a second of work; yield the function that advances it by a count."""
    from tqdm import tqdm

    bar = tqdm(desc=label, total=total, unit=unit or "it", file=sys.stderr, disable=None, leave=False, delay=0.5)
    with bar:
        yield bar.update
