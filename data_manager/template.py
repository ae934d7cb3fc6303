"""Templates such as `"{title}\\n{body}"` that make a text of the columns of a row; nothing heavy is imported."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class MissingColumnError(KeyError):
    """A row lacks a column; `column` is the path that was asked for, `known` what there is at that place."""

    def __init__(self, column: str, known: Sequence[str]) -> None:
        super().__init__(column)
        self.column, self.known = column, list(known)


class NoTextError(ValueError):
    """A column holds something that is no text; the message says what."""


@dataclass(frozen=True)
class Template:
    """Literal texts and, between each two, a column's path."""

    literals: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are needed."""
        return list(dict.fromkeys(path[0] for path in self.fields))

    def fill(self, row: Mapping[str, Any]) -> str | None:
        """The text of a row, None where every column is empty; raises MissingColumnError or NoTextError."""
        values = [_text(_value(row, path), path) for path in self.fields]
        if not any(values):
            return None
        filled = [text for pair in zip(self.literals, values, strict=False) for text in pair]
        return "".join([*filled, self.literals[-1]])


def parse_template(text: str) -> Template:
    """Read a template; raises ValueError for braces that do not match, or that hold no name."""
    literals, fields, literal, end = [], [], "", 0
    for match in _PART.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
        elif match[1] is None:
            raise ValueError(f"has a brace {match[0]!r} without its other half; one of the text itself is doubled")
        elif not match[1].strip():
            raise ValueError("has braces with no column in them")
        else:
            literals.append(literal)
            fields.append(tuple(match[1].strip().split(".")))
            literal = ""
    return Template((*literals, literal + text[end:]), tuple(fields))


def fields_of(text: str) -> list[str]:
    """The columns of a template; raises ValueError like `parse_template`."""
    return parse_template(text).columns


def _value(row: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    # a column may have a dot in its name
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
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise NoTextError(f"column {'.'.join(path)!r} holds {type(value).__name__}, not text")
