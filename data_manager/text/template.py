"""Templates such as `"{title}\\n{body}"` that format the columns of a row; nothing heavy is imported."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_factory.yaml_config.registry import closest

Spans = tuple[tuple[int, int], ...]
"""Beginning and end of each response, in characters of the text."""
RESPONSE = "response"
"""Mark of a column that a model writes: `{answer:response}`."""
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
    """Parsed template: literals, and between each two the path of a column.

    `leads` has for each column that is a response the white space that belongs to it, None for other columns.
    """

    literals: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    leads: tuple[str | None, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the template uses."""
        return list(dict.fromkeys(path[0] for path in self.fields))

    @property
    def has_responses(self) -> bool:
        """True if a column is a response."""
        return any(lead is not None for lead in self.leads)

    @property
    def ends_with_response(self) -> bool:
        """True if nothing follows the last response, so that its end is to be learnt."""
        return self.has_responses and self.leads[-1] is not None and not self.literals[-1]

    def fill(self, row: Mapping[str, Any]) -> str | None:
        """Format a row; return None if all columns are empty. Raise MissingColumnError or NoTextError."""
        filled = self.fill_spans(row)
        return None if filled is None else filled[0]

    def fill_spans(self, row: Mapping[str, Any]) -> tuple[str, Spans] | None:
        """Format a row; return its text and the spans of responses, or None if all columns are empty.

        Raises MissingColumnError or NoTextError.
        """
        values = [_text(_value(row, path), path) for path in self.fields]
        if not any(values):
            return None
        text, spans = "", []
        for literal, value, lead in zip(self.literals, values, self.leads, strict=False):
            text += literal
            begin = len(text)
            text += (lead or "") + value
            if lead is not None:
                spans.append((begin, len(text)))
        return text + self.literals[-1], tuple(spans)


def parse_template(text: str) -> Template:
    """Parse a template; raise ValueError for unbalanced or empty braces."""
    literals, fields, leads, literal, end = list[str](), list[tuple[str, ...]](), list[str | None](), "", 0
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
            name, lead = _response(match[1])
            fields.append(tuple(name.split(".")))
            leads.append(lead)
            literal = ""
    return Template((*literals, literal + text[end:]), tuple(fields), tuple(leads))


def _response(content: str) -> tuple[str, str | None]:
    """Return the column in braces, and of a response the white space before it in them, None for other columns."""
    name, _, mark = (part.strip() for part in content.rpartition(":"))
    if name and mark == RESPONSE:
        return name, content[: len(content) - len(content.lstrip())]
    if name and RESPONSE in (name, closest(mark, [RESPONSE])):
        column = mark if name == RESPONSE else name
        raise ValueError(f"has {{{content}}}; a column that is a response is written {{{column}:{RESPONSE}}}")
    return content.strip(), None


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
