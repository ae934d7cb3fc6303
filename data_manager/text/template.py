"""Templates such as `"{title}\\n{body}"` that format the columns of a row; nothing heavy is imported."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class MissingColumnError(KeyError):
    """Error of a missing column; `column` is the requested path, `known` are the existing keys."""

    def __init__(self, column: str, known: Sequence[str]) -> None:
        super().__init__(column)
        self.column, self.known = column, list(known)


class NoTextError(ValueError):
    """Error of a column whose value is not text; the message names its type."""


@dataclass(frozen=True)
class Template:
    """Parsed template: literals, and between each two the path of a column."""

    literals: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the template uses."""
        return list(dict.fromkeys(path[0] for path in self.fields))

    def fill(self, row: Mapping[str, Any]) -> str | None:
        """Format a row; return None if all columns are empty. Raise MissingColumnError or NoTextError."""
        values = [_text(_value(row, path), path) for path in self.fields]
        if not any(values):
            return None
        filled = [text for pair in zip(self.literals, values, strict=False) for text in pair]
        return "".join([*filled, self.literals[-1]])


def parse_template(text: str) -> Template:
    """Parse a template; raise ValueError for unbalanced or empty braces."""
    literals, fields, literal, end = [], [], "", 0
    for match in _PART.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1] is None:
            raise ValueError(f"has an unmatched brace {match[0]!r}; double a literal brace")
        elif not match[1].strip():
            raise ValueError("has empty braces; write a column name in them")
        else:
            literals.append(literal)
            fields.append(tuple(match[1].strip().split(".")))
            literal = ""
    return Template((*literals, literal + text[end:]), tuple(fields))


def fields_of(text: str) -> list[str]:
    """Return the columns of a template; raise ValueError like `parse_template`."""
    return parse_template(text).columns


def _value(row: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    # the name of a column may contain a dot
    value: Any = row
    for depth, key in enumerate(path):
        if not isinstance(value, Mapping):
            raise MissingColumnError(".".join(path), [])
        if key not in value:
            whole = ".".join(path[depth:])
            if whole in value:
                return value[whole]
            raise MissingColumnError(".".join(path), [str(name) for name in value])
        value = value[key]
    return value


def _text(value: Any, path: tuple[str, ...]) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""  # NaN is how tables of numbers mark a missing value
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise NoTextError(f"column {'.'.join(path)!r} holds {type(value).__name__}, not text")
