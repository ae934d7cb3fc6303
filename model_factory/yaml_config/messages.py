"""Messages for pydantic's errors: what was given, what fits, what to do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails, PydanticCustomError

from model_factory.yaml_config.dump import dump_scalar
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.scalars import resolve_scalar

_YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


@dataclass(frozen=True)
class Explanation:
    """Code, message and suggestion of one problem."""

    code: str
    message: str
    suggestion: str | None = None


def explain(detail: ErrorDetails, node: Node | None, parent: Node | None = None) -> Explanation:
    """Return code, message and suggestion of a pydantic error about the value `node` in the mapping `parent`."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        fix = _shares(node) if kind == "dict_type" and detail["loc"][-1:] == ("splits",) else None
        return _wrong_type(_TYPES[kind], node, fix)
    if kind in ("literal_error", "enum"):
        return _wrong_choice(str(context["expected"]), node, str(context.get("remedy", "")))
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        fix = _share(node, parent) if detail["loc"][-2:-1] == ("splits",) else None
        hint = f"; write {fix}" if fix else ""
        return Explanation("range", f"must be {words} {_number(context[key])}; got {shown(node)}{hint}", fix)
    if kind == "finite_number":
        return Explanation("range", f"must be a finite number; got {shown(node)}")
    message = detail["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should", "should", message)
    suggestion = context.get("suggestion") if isinstance(context.get("suggestion"), str) else None
    got = "" if "got" in message or node is None or isinstance(node.value, dict | list) else f"; got {shown(node)}"
    return Explanation("type" if kind == "name_alone" else "value", message + got, suggestion)


def shown(node: Node | None) -> str:
    """Format a value for a message, as the file has it."""
    if node is None or node.value is None:
        return "nothing"
    if isinstance(node.value, dict | list):
        return node.kind
    text = repr(node.value) if isinstance(node.value, str) else _written(node)
    return text if len(text) <= 60 else text[:57] + "..."


def _written(node: Node) -> str:
    """Return a scalar that is no string as the file has it, or in YAML if it is not from a file."""
    return node.text or dump_scalar(node.value)


def _number(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else f"{bound}"


def _wrong_type(expected: str, node: Node | None, fix: str | None = None) -> Explanation:
    got = f"{node.kind}, {shown(node)}" if node is not None and not isinstance(node.value, dict | list) else shown(node)
    if node is None or node.value is None:
        return Explanation("type", f"must be {expected}, and is empty")
    is_quoted = expected == "a string" and not isinstance(node.value, dict | list)
    fix = fix or (f'"{_written(node)}"' if is_quoted else _conversion(expected, node.value))
    hint = f"; write {fix}" if fix else "; leave the key out, or write null" if node.value == "None" else ""
    return Explanation("type", f"must be {expected}; got {got}{hint}", fix)


def _conversion(expected: str, value: Any) -> str | None:
    """Return the value converted to the expected type, if the conversion is unambiguous."""
    if isinstance(value, float) and expected == "an integer" and value.is_integer():
        return str(int(value))
    if not isinstance(value, str):
        return None
    if expected == "true or false":
        return _YES_NO.get(value.lower()) or (value.lower() if value.lower() in ("true", "false") else None)
    if expected in ("an integer", "a number"):
        if (scaled := _scaled(value, expected)) is not None:
            return scaled
        try:
            number = resolve_scalar(_without_commas(value.replace("_", ""), expected) or "x")
        except ValueError:
            return None
        wanted = int if expected == "an integer" else (int, float)
        return f"{number}" if isinstance(number, wanted) and not isinstance(number, bool) else None
    return None


def _share(node: Node | None, splits: Node | None) -> str | None:
    """Return the share of one of the `splits`: 0.9 for 90 beside 10, and for 9 beside 1."""
    parts = [part.value for part in splits.entries.values()] if splits is not None else []
    sizes = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool) and 1 <= part < 1e9]
    if node is None or len(sizes) < len(parts) or not isinstance(node.value, int | float):
        return None
    return f"{node.value / sum(sizes):g}"


def _shares(node: Node | None) -> str | None:
    """Return the mapping for `90/10`, `[0.8, 0.1, 0.1]` or 0.9: {train: 0.9, test: 0.1}."""
    data = node.data() if node is not None else None
    parts = re.split(r"[/:, ]+", data) if isinstance(data, str) else data if isinstance(data, list) else [data]
    try:
        sizes = [float(str(part).removesuffix("%")) for part in parts]
    except ValueError:
        return None
    sizes += [1 - sizes[0]] if len(sizes) == 1 else []
    names = {2: ("train", "test"), 3: ("train", "validation", "test")}.get(len(sizes), ())
    if not names or not all(0 < size < 1e9 for size in sizes):
        return None
    return f"{{{', '.join(f'{name}: {size / sum(sizes):g}' for name, size in zip(names, sizes, strict=True))}}}"


def _scaled(text: str, expected: str) -> str | None:
    """Return `1k` as 1000, `2M` as 2000000 and, for a number, `10%` as 0.1; None for other text."""
    found = re.fullmatch(r"([+-]?\d{1,9}(?:\.\d{1,9})?)(k|K|M|%)", text)
    if found is None:
        return None
    number = float(found[1]) * {"k": 1e3, "K": 1e3, "M": 1e6, "%": 0.01}[found[2]]
    if found[2] == "%":
        return f"{number:g}" if expected == "a number" else None
    return str(int(number)) if number.is_integer() else None


def _without_commas(text: str, expected: str) -> str:
    """Rewrite `1,000` as 1000 for an integer, and `0,005` as 0.005 for a number; leave ambiguous text unchanged."""
    text = re.sub(r"(?<=\d),$", "", text)  # `10,` ends with a comma of another language
    has_thousands = re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", text) is not None
    if has_thousands and (expected == "an integer" or text.count(",") > 1 or "." in text):
        return text.replace(",", "")
    if expected == "a number" and not has_thousands and text.count(",") == 1 and "." not in text:
        return text.replace(",", ".")
    return text


def _wrong_choice(expected: str, node: Node | None, remedy: str) -> Explanation:
    """Explain a value outside a Literal or an enum; pydantic's `expected` reads "'a', 'b' or 'c'"."""
    choices = re.findall(r"'([^']*)'", expected)
    near = closest(str(node.value), choices) if node is not None and isinstance(node.value, str) else None
    hint = f"; did you mean {near!r}?" if near else f"; {remedy}" if remedy else ""
    return Explanation("choice", f"must be one of {', '.join(choices)}; got {shown(node)}{hint}", near)


# The error of a name outside a set of names, like that of a pydantic Literal.


def choice_error(names: Iterable[str], remedy: str = "") -> PydanticCustomError:
    """Return the error that a Literal of `names` would raise; `remedy` is shown if no name is near."""
    quoted = [f"{name!r}" for name in names]
    expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    context = {"expected": expected, "remedy": remedy}
    return PydanticCustomError("literal_error", "Input should be {expected}", context)
