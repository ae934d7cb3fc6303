"""Problems of a configuration with their positions, and the exceptions that carry them."""

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TextIO

from model_factory.yaml_config import exit_codes

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except line breaks and tabs, marks of writing direction, and surrogates."""
UNREADABLE = "unreadable"
"""Code of a problem with the file itself (missing, a folder, not UTF-8, too large), not with its content."""


@dataclass(frozen=True)
class Place:
    """Position of a value: line and column of a file, both from 1, or (with neither) a `--set` option.

    `text` is the source line and `width` the number of characters that the caret underlines.
    """

    file: str
    line: int | None = None
    column: int | None = None
    text: str | None = None
    width: int = 1

    def __str__(self) -> str:
        file = escape_line(self.file)
        return file if self.line is None else f"{file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """Error of a configuration: its position, message and suggestion."""

    place: Place
    path: str
    code: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        return "\n".join([self.headline(), *self.excerpt()])

    def headline(self) -> str:
        """Return `file:line:column: path: message` on one line."""
        path = f"{self.path}: " if self.path else ""
        return f"{self.place}: {escape_line(path + self.message)}"

    def excerpt(self) -> list[str]:
        """Return the source line and a caret under the value; empty if there is no line to show."""
        place = self.place
        if place.text is None or place.column is None:
            return []
        start, shown, column = 0, place.text, place.column - 1
        if len(shown) > 160:  # of a long line, show only the part around the value
            start = max(0, column - 60)
            shown = shown[start : start + 160]
        width = max(1, min(place.width, len(shown) - (column - start)))
        return ["    " + "".join(map(_as_wide, shown)), "    " + " " * (column - start) + "^" * width]

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return {
            "file": self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "path": self.path,
            "code": self.code,
            "message": self.message,
            "suggestion": self.suggestion,
        }


class ConfigError(ValueError):
    """Invalid configuration; `problems` lists every reason, `str()` is the text that the command line prints."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sort_problems(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)

    @property
    def is_unreadable(self) -> bool:
        """Return True if a file could not be read at all."""
        return any(problem.code == UNREADABLE for problem in self.problems)


class ConfigFileError(ConfigError):
    """File that is missing, a folder, too large, not UTF-8 or not permitted."""


class ConfigSyntaxError(ConfigError):
    """File that is not valid YAML."""


class ConfigValueError(ConfigError):
    """File that is valid YAML with invalid content."""


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems in the order of the text and drop duplicates, such as a value reached twice by an anchor."""
    unique = {(p.place.file, p.place.line, p.place.column, p.code, p.message): p for p in reversed(list(problems))}
    files = list(dict.fromkeys(p.place.file for p in reversed(unique.values())))
    return sorted(
        unique.values(), key=lambda p: (files.index(p.place.file), p.place.line or 0, p.place.column or 0, p.message)
    )


def escape_line(text: str) -> str:
    """Return `text` on one line, with line breaks, control and invisible characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_controls(text: str) -> str:
    """Return `text` with control characters escaped, except line breaks and tabs."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _as_wide(character: str) -> str:
    """Replace a character of a source line by one of width 1, so that carets stay aligned."""
    if character.isprintable() or character == "\xa0":
        return character
    return " " if character == "\t" else "\N{REPLACEMENT CHARACTER}"


def fail(
    kind: type[ConfigError], place: Place, message: str, *, code: str = "syntax", path: str = "", fix: str | None = None
) -> ConfigError:
    """Return a ConfigError of `kind` with one problem; `fix` is appended and kept as the suggestion."""
    text = f"{message}; {fix}" if fix else message
    return kind([replace(Problem(place, path, code, text), suggestion=fix)])


# Printing of problems on the command line.


def report_failure(error: ConfigError, as_json: bool) -> int:
    """Print the problems on stderr, or as one JSON object on stdout; return the exit code."""
    if as_json:
        errors = [problem.as_dict() for problem in error.problems]
        print(json.dumps({"ok": False, "errors": errors, "config": None}, indent=2))
    else:
        print_problems(error.problems, sys.stderr)
    return exit_codes.UNREADABLE if error.is_unreadable else exit_codes.INVALID


def print_problems(problems: list[Problem], stream: TextIO) -> None:
    """Print each problem with its line and caret, then their number; in colour on a terminal."""
    colour = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    bold, red, reset = ("\x1b[1m", "\x1b[31m", "\x1b[0m") if colour else ("", "", "")
    for problem in problems:
        head, (*source, caret) = problem.headline(), problem.excerpt() or [""]
        place = str(problem.place)
        print(f"{bold}{place}{reset}{head[len(place) :]}", file=stream)
        for line in source:
            print(line, file=stream)
        if caret:
            print(f"{red}{caret}{reset}", file=stream)
    print(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}", file=stream)
