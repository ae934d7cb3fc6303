"""Format a key's type, range and default from its JSON Schema."""

import json
import re
from typing import Any

from model_factory.yaml_config.strict_model import StrictModel

Schema = dict[str, Any]

_PLAIN = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_UNIT = re.compile(r"\s*\[(?P<unit>[^\[\]]+)\]$")


def meaning_and_unit(description: str) -> tuple[str, str]:
    """Split a field's docstring into its text and the `[unit]` at its end, or an empty string."""
    text = " ".join(description.split())
    found = _UNIT.search(text)
    return (text[: found.start()], found["unit"]) if found else (text, "")


def cases_of(schema: Schema, definitions: Schema) -> list[Schema]:
    """List the alternatives of a value, with references resolved."""
    if "$ref" in schema:
        return cases_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives is None:
        return [schema]
    return [case for one in alternatives for case in cases_of(one, definitions)]


def type_text(schema: Schema, definitions: Schema) -> str:
    """Describe the allowed types: `whole number or null`."""
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
    """Format the bounds and choices of each alternative; empty if the type has no limits."""
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
    if whole:  # an excluded 0 means from 1
        low, above = (above + 1 if above is not None else low), None
        high, below = (below - 1 if below is not None else high), None
    signs = (("> ", above), ("≥ ", low), ("< ", below), ("≤ ", high))
    return ", ".join(sign + number_text(bound) for sign, bound in signs if bound is not None)


def number_text(value: float) -> str:
    """Format a bound: 1,048,576, or 0.5."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def default_text(value: Any) -> str:
    """Format a default as in a config file."""
    if isinstance(value, StrictModel):
        fields = value.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if "type" in type(value).model_fields:
            fields = {"type": getattr(value, "type"), **fields}  # noqa: B009  (a field of some types only)
        inside = ", ".join(f"{key}: {one}" for key, one in fields.items())
        return f"`{{{inside}}}`" if inside else "its defaults"
    if isinstance(value, float):
        return f"`{value:g}`".replace("e-0", "e-")
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
