"""Tree of a configuration: data with the position of every key and value. Trees are immutable."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from model_factory.yaml_config.errors import Place
from model_factory.yaml_config.strict_model import Location

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Node:
    """Scalar, mapping or list with the positions of its value and of its key.

    `origin` is the path under which a merged default was written; `size` counts the nodes below, with aliases expanded;
    `text` is a number, bool or null as written, such as 1e3 for 1000.0.
    """

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    key_place: Place | None = None
    origin: Location | None = None
    size: int = field(default=1, compare=False)
    text: str | None = field(default=None, compare=False)

    @property
    def entries(self) -> "dict[str, Node]":
        """Return the children of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def kind(self) -> str:
        """Return the type of the value in words for a message."""
        names = {
            dict: "a mapping",
            list: "a list",
            str: "a string",
            bool: "a bool",
            int: "an integer",
            float: "a float",
        }
        return names.get(type(self.value), "empty")

    @property
    def report_place(self) -> Place:
        """Return the position for a message: that of the key if the value is empty or spans lines."""
        spans = self.value is None or isinstance(self.value, dict | list)
        return self.key_place if spans and self.key_place else self.place

    def child(self, key: str | int) -> "Node | None":
        """Return the child under a key or an index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def at(self, path: Location) -> "Node | None":
        """Return the node at a path below this one, or None."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node else None
        return node

    def data(self) -> Any:
        """Return plain Python data: dict, list and scalars."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value

    def edited(self, path: Location, edit: "Callable[[Node | None], Node | None]") -> "Node":
        """Return a copy in which `edit` replaced the child at `path` (None removes it from a mapping)."""
        key, rest = path[0], path[1:]
        old = self.child(key)
        new = edit(old) if not rest else (old.edited(rest, edit) if old else None)
        if isinstance(self.value, list):
            if new is None or not isinstance(key, int):
                return self
            return replace(self, value=[new if i == key else item for i, item in enumerate(self.value)])
        entries = dict(self.entries)
        entries.pop(str(key), None) if new is None else entries.update({str(key): new})
        return replace(self, value=entries)

    def without(self, *keys: str) -> "Node":
        """Return a copy of this mapping without `keys`."""
        return replace(self, value={key: node for key, node in self.entries.items() if key not in keys})

    def merged(self, over: "Node") -> "Node":
        """Merge `over` into this tree: mappings merge key by key, anything else of `over` replaces."""
        if not isinstance(self.value, dict) or not isinstance(over.value, dict):
            return over
        entries = dict(self.value)
        for key, node in over.value.items():
            entries[key] = entries[key].merged(node) if key in entries else node
        return replace(over, value=entries)


def dotted(path: Location) -> str:
    """Return `('datasets', 0, 'name')` as `datasets.0.name`, the form that `--set` takes."""
    return ".".join(str(key) for key in path)
