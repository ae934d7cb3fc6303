"""A table of named things that users can extend by a decorator or by an entry point."""

import os
import sys
import time
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
PLUGIN_HINT = "one of your own is found by --plugin MODULE"
"""What is said where an unknown name is near no known one."""
_GLANCE = 0.2
"""Seconds for which what is installed is taken to be as it was."""


class UnknownNameError(ValueError):
    """A name that is in no registry; `suggestion` is the nearest one that is, or None."""

    def __init__(self, kind: str, name: object, known: list[str], remedy: str = "") -> None:
        self.known = known
        self.suggestion = closest(str(name), known)
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ";"
        more = f"; {remedy}" if remedy and not self.suggestion else ""
        super().__init__(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}{more}")


def closest(word: str, known: list[str]) -> str | None:
    """The known word nearest to `word` regardless of case, or None where none is near.

    Near is at most one slip (a letter dropped, added, replaced, or two swapped) in three letters; between equally near
    words one of the same length wins, then the one that shares more with `word`.
    """
    lowered = word.lower()
    ranked = sorted(
        (
            _slips(lowered, name.lower()),
            len(name) != len(word),
            -SequenceMatcher(None, lowered, name.lower()).ratio(),
            i,
        )
        for i, name in enumerate(known)
        if abs(len(name) - len(word)) <= max(len(word), len(name)) / 3
    )
    if not ranked:
        return None
    slips, *_, index = ranked[0]
    return known[index] if slips <= max(1, max(len(word), len(known[index])) // 3) else None


def _slips(a: str, b: str) -> int:
    """Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


class Registry(Generic[T]):
    """Names to entries. Entry points of `group` are looked up only for a name that is not registered yet.

    `filled_by` is a module whose import registers the built-in entries, for who pays for them only when it is asked.
    """

    def __init__(self, kind: str, group: str, filled_by: str | None = None) -> None:
        self.kind, self.group, self.filled_by = kind, group, filled_by
        self._entries: dict[str, T] = {}
        self._modules: dict[str, str] = {}

    def add(self, name: str, entry: T) -> None:
        """Register `entry`; raises ValueError when the name is taken."""
        if (
            self.filled_by is not None and self.filled_by not in sys.modules
        ):  # a custom entry must not take the name of a built-in one
            self._fill()
        if name in self._entries or (name in self._modules and self._modules[name] not in sys.modules):
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._entries[name] = entry

    def add_lazy(self, name: str, module: str) -> None:
        """Announce a name that importing `module` registers, so that only who uses it pays for the import."""
        self._modules[name] = module

    def get(self, name: str) -> T:
        """The entry of `name`, loading its entry point where one is installed; raises UnknownNameError."""
        self._fill()
        if name not in self._entries and name in self._modules:
            import_module(self._modules[name])
        if name not in self._entries:
            for point in self._entry_points():
                if point.name == name:
                    point.load()  # importing the module runs its decorator
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self.names(), PLUGIN_HINT)
        return self._entries[name]

    def names(self) -> list[str]:
        """Registered names in the order of registration, then announced ones, imported or not, and installed ones."""
        self._fill()
        known = [*(name for name in self._entries if name not in self._modules), *self._modules]
        return [*known, *sorted({point.name for point in self._entry_points()} - set(known))]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _fill(self) -> None:
        if self.filled_by is not None:
            import_module(self.filled_by)

    def _entry_points(self) -> "tuple[EntryPoint, ...]":
        return _installed(self.group, _changes(tuple(sys.path), int(time.monotonic() / _GLANCE)))


@lru_cache(maxsize=64)
def _installed(group: str, folders: tuple[tuple[str, int | None], ...]) -> "tuple[EntryPoint, ...]":
    """Entry points of a group, looked for again when a folder that Python imports from has changed."""
    from importlib.metadata import entry_points  # 15 ms, paid only for a name that is not built in

    return tuple(entry_points(group=group))


@lru_cache(maxsize=1)
def _changes(folders: tuple[str, ...], _: int) -> tuple[tuple[str, int | None], ...]:
    """When each folder has changed, looked at once a glance: a file may have thousands of wrong names."""
    return tuple((folder, _changed(folder)) for folder in folders)


def _changed(folder: str) -> int | None:
    """When something was last added to a folder or taken from it, None where it is not there."""
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return None
