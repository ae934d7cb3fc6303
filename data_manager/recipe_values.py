"""Check values against the annotations in the source of lhotse's recipes.

Only simple types are checked: strings, paths, numbers, booleans, null, lists of these, unions. Others are accepted.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LISTS = ("Sequence", "List", "list", "Iterable", "Tuple", "tuple", "Set", "set")
_UNIONS = ("Union", "Optional")


@dataclass(frozen=True)
class Kind:
    """Type of value: its name in the singular and plural, and a predicate for values."""

    name: str
    plural: str
    accepts: Callable[[Any], bool]


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


def expected_kind(annotation: str | None, value: Any) -> str | None:
    """Describe the expected type if `value` (plain data from a file) does not match `annotation`; None if it does."""
    kinds = _parse_kinds(ast.parse(annotation, mode="eval").body) if annotation else None
    if kinds is None or any(kind.accepts(value) for kind in kinds):
        return None
    return " or ".join(dict.fromkeys(kind.name for kind in kinds))


def _parse_kinds(node: ast.expr) -> list[Kind] | None:
    """List the kinds that an annotation allows; None if it is not a simple one."""
    if isinstance(node, ast.Name | ast.Constant):
        known = _KINDS.get(node.id if isinstance(node, ast.Name) else str(node.value))
        return [known] if known else None
    if isinstance(node, ast.BinOp):
        return _parse_union([node.left, node.right])
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if node.value.id in _UNIONS:
        found = _parse_union(inner)
        return [*found, _NULL] if found and node.value.id == "Optional" else found
    items = _parse_kinds(inner[0]) if node.value.id in _LISTS else None
    return [_list_of(items)] if items else None


def _parse_union(members: list[ast.expr]) -> list[Kind] | None:
    found: list[Kind] = []
    for member in members:
        kinds = _parse_kinds(member)
        if kinds is None:
            return None
        found += kinds
    return found


def _list_of(items: list[Kind]) -> Kind:
    name = "a list of " + " or ".join(kind.plural for kind in items)
    return Kind(
        name, "lists", lambda value: isinstance(value, list) and all(_matches_any(items, item) for item in value)
    )


def _matches_any(kinds: list[Kind], value: Any) -> bool:
    return any(kind.accepts(value) for kind in kinds)
