"""Whether a value suits a parameter of a lhotse recipe, told from the source of the parameter's annotation.

Only what is plain is told: strings, paths, numbers, booleans, null, lists of these, unions. Anything else is taken.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LISTS = ("Sequence", "List", "list", "Iterable", "Tuple", "tuple", "Set", "set")
_UNIONS = ("Union", "Optional")


@dataclass(frozen=True)
class Kind:
    """One kind of value: what it is called alone and in a list, and whether a value is of it."""

    name: str
    plural: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_STRING = Kind("a string", "strings", lambda value: isinstance(value, str))
_NUMBER = Kind("a number", "numbers", _is_number)
_NULL = Kind("null", "nulls", lambda value: value is None)
_KINDS = {
    "str": _STRING,
    "Pathlike": Kind("a path", "paths", lambda value: isinstance(value, str)),
    "Path": Kind("a path", "paths", lambda value: isinstance(value, str)),
    "int": Kind("an integer", "integers", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": _NUMBER,
    "Seconds": _NUMBER,
    "bool": Kind("true or false", "booleans", lambda value: isinstance(value, bool)),
    "None": _NULL,
}


def wrong_value(annotation: str | None, value: Any) -> str | None:
    """What a parameter takes, in words, where `value` (plain data from a file) is not that; None where it is."""
    kinds = _kinds(ast.parse(annotation, mode="eval").body) if annotation else None
    if kinds is None or any(kind.holds(value) for kind in kinds):
        return None
    return " or ".join(dict.fromkeys(kind.name for kind in kinds))


def _kinds(node: ast.expr) -> list[Kind] | None:
    """The kinds that an annotation allows; None where it is not a plain one."""
    if isinstance(node, ast.Name | ast.Constant):
        known = _KINDS.get(node.id if isinstance(node, ast.Name) else str(node.value))
        return [known] if known else None
    if isinstance(node, ast.BinOp):
        return _union([node.left, node.right])
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if node.value.id in _UNIONS:
        found = _union(inner)
        return [*found, _NULL] if found and node.value.id == "Optional" else found
    items = _kinds(inner[0]) if node.value.id in _LISTS else None
    return [_list_of(items)] if items else None


def _union(members: list[ast.expr]) -> list[Kind] | None:
    found: list[Kind] = []
    for member in members:
        kinds = _kinds(member)
        if kinds is None:
            return None
        found += kinds
    return found


def _list_of(items: list[Kind]) -> Kind:
    name = "a list of " + " or ".join(kind.plural for kind in items)
    return Kind(name, "lists", lambda value: isinstance(value, list) and all(_is_any(items, item) for item in value))


def _is_any(kinds: list[Kind], value: Any) -> bool:
    return any(kind.holds(value) for kind in kinds)
