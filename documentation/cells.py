"""A key's type, range and default as a reader is told them, from its part of a JSON Schema."""

import json
import re
from typing import Any

from yaml_config.strict_model import StrictModel

Schema = dict[str, Any]

_PLAIN = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_UNIT = re.compile(r"\s*\[(?P<unit>[^\[\]]+)\]$")


def meaning_and_unit(description: str) -> tuple[str, str]:
    """A field's docstring without the `[unit]` at its end, and the unit; empty where it has none."""
    text = " ".join(description.split())
    found = _UNIT.search(text)
    return (text[: found.start()], found["unit"]) if found else (text, "")


def cases_of(schema: Schema, definitions: Schema) -> list[Schema]:
    """The alternatives of a value, references followed."""
    if "$ref" in schema:
        return cases_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives is None:
        return [schema]
    return [case for one in alternatives for case in cases_of(one, definitions)]


def type_text(schema: Schema, definitions: Schema) -> str:
    """What may stand there, in words: `whole number or null`."""
    return " or ".join(dict.fromkeys(_case_text(case, definitions) for case in cases_of(schema, definitions)))


def _case_text(case: Schema, definitions: Schema) -> str:
    kind = case.get("type")
    if "enum" in case or "const" in case:
        return "name" if isinstance(_choices(case)[0], str) else _PLAIN["integer"]
    if kind == "array":
        items = case.get("items")
        return f"list of {type_text(items, definitions)}" if items else "list"
    if kind == "object" and "properties" not in case:
        values = case.get("additionalProperties")
        return f"mapping to {type_text(values, definitions)}" if isinstance(values, dict) else "mapping"
    if kind in _PLAIN:
        return _PLAIN[kind]
    return "mapping" if case else "anything"


def _choices(case: Schema) -> list[Any]:
    return list(case["enum"]) if "enum" in case else [case["const"]]


def range_text(schema: Schema, definitions: Schema) -> str:
    """Bounds and choices, each alternative's own; empty where anything of the type goes."""
    found = [_case_range(case, definitions) for case in cases_of(schema, definitions)]
    return "; ".join(dict.fromkeys(text for text in found if text))


def _case_range(case: Schema, definitions: Schema) -> str:
    if "enum" in case or "const" in case:
        return ", ".join(f"`{choice}`" for choice in _choices(case))
    kind = case.get("type")
    if kind == "array" and case.get("items"):
        return range_text(case["items"], definitions)
    if kind == "object" and isinstance(case.get("additionalProperties"), dict):
        return range_text(case["additionalProperties"], definitions)
    if case.get("minLength") and case.get("maxLength") == case["minLength"] == 1:
        return "one character"
    if case.get("minLength"):
        return "not empty"
    return _bounds(case) if kind in ("integer", "number") else ""


def _bounds(case: Schema) -> str:
    whole = case["type"] == "integer"
    low, above = case.get("minimum"), case.get("exclusiveMinimum")
    high, below = case.get("maximum"), case.get("exclusiveMaximum")
    if whole:  # 0 excluded is 1 on
        low, above = (above + 1 if above is not None else low), None
        high, below = (below - 1 if below is not None else high), None
    signs = (("> ", above), ("≥ ", low), ("< ", below), ("≤ ", high))
    return ", ".join(sign + number_text(bound) for sign, bound in signs if bound is not None)


def number_text(value: float) -> str:
    """A bound as it is read: 1,048,576, or 0.5."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def default_text(value: Any) -> str:
    """A default as it would stand in a file."""
    if isinstance(value, StrictModel):
        given = value.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if "type" in type(value).model_fields:
            given = {"type": getattr(value, "type"), **given}  # noqa: B009  (a field of some types alone)
        inside = ", ".join(f"{key}: {one}" for key, one in given.items())
        return f"`{{{inside}}}`" if inside else "its own defaults"
    if isinstance(value, float):
        return f"`{value:g}`".replace("e-0", "e-")
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
