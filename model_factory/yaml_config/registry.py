"""Registry of named entries that users extend by a decorator or by an entry point."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
Decorated = TypeVar("Decorated")
PLUGIN_HINT = "a custom one is found by --plugin MODULE"
"""Hint for an unknown name that is near no known one."""
_CACHE_SECONDS = 0.2
"""Seconds for which the list of installed packages is cached."""


class UnknownNameError(ValueError):
    """Name that is not registered; `suggestion` is the nearest registered one, or None."""

    def __init__(self, kind: str, name: object, known: list[str], remedy: str = "") -> None:
        self.known = known
        self.suggestion = closest(str(name), known)
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ";"
        more = f"; {remedy}" if remedy and not self.suggestion else ""
        super().__init__(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}{more}")


def closest(word: str, known: list[str]) -> str | None:
    """Return the known word nearest to `word` regardless of case, or None if no word is near.

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
    """Return the optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours."""
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
    """Registry from names to entries. Entry points of `group` are loaded only for a name that is not registered yet.

    `filled_by` is a module whose import registers the built-in entries; it is imported on first use.
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

    def decorator(self, name: str, make_entry: Callable[[Any], T]) -> Callable[[Decorated], Decorated]:
        """Return a decorator that registers `make_entry(decorated)` under `name`; it raises ValueError if it is taken."""

        def register(decorated: Decorated) -> Decorated:
            self.add(name, make_entry(decorated))
            return decorated

        return register

    def add_lazy(self, name: str, module: str) -> None:
        """Register a name lazily: `module`, which registers the entry, is imported on first use."""
        self._modules[name] = module

    def get(self, name: str) -> T:
        """Return the entry of `name`, loading its entry point if one is installed; raises UnknownNameError."""
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
        """Return registered names in order of registration, then lazily registered ones, then installed ones."""
        return list(self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __iter__(self) -> Iterator[str]:
        """Iterate over `names()`; installed packages are searched, for 10 ms, only after the names known without them."""
        self._fill()
        known = [*(name for name in self._entries if name not in self._modules), *self._modules]
        yield from known
        yield from sorted({point.name for point in self._entry_points()} - set(known))

    def _fill(self) -> None:
        if self.filled_by is not None:
            import_module(self.filled_by)

    def _entry_points(self) -> "tuple[EntryPoint, ...]":
        return _installed(self.group, _changes(tuple(sys.path), int(time.monotonic() / _CACHE_SECONDS)))


class RegistryUnion:
    """Registries whose entries one field names; a name that several have is that of the first."""

    def __init__(self, *registries: Registry[Any]) -> None:
        self.registries = registries
        self.kind = registries[0].kind

    def get(self, name: str) -> Any:
        """Return the entry of `name`; raises UnknownNameError."""
        for registry in self.registries:
            if name in registry:
                return registry.get(name)
        raise UnknownNameError(self.kind, name, self.names(), PLUGIN_HINT)

    def names(self) -> list[str]:
        """Return the names of all registries, each once."""
        return list(dict.fromkeys(name for registry in self.registries for name in registry))


@lru_cache(maxsize=64)
def _installed(group: str, folders: tuple[tuple[str, int | None], ...]) -> "tuple[EntryPoint, ...]":
    """Return the entry points of a group; they are cached until a folder of sys.path changes."""
    from importlib.metadata import entry_points  # takes 15 ms, so only for names that are not built in

    return tuple(entry_points(group=group))


@lru_cache(maxsize=1)
def _changes(folders: tuple[str, ...], _: int) -> tuple[tuple[str, int | None], ...]:
    """Return the modification time of each folder, cached since a file may have thousands of unknown names."""
    return tuple((folder, _changed(folder)) for folder in folders)


def _changed(folder: str) -> int | None:
    """Return the modification time of a folder, None if it does not exist."""
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return None


def import_on_call(target: str) -> Callable[..., Any]:
    """Return a function that imports `target`, written `module:name`, and calls it with its own arguments."""
    module, _, name = target.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
