"""Figures: measured values with their confidence intervals, and reports of them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

LEVEL = 0.95
"""Level of all confidence intervals."""
_LONGEST_REASON = 200
"""Characters of an error's message that are shown beside a figure; the command prints all of it."""
HEAD = ("figure", "value", "95 % interval", "over", "interval by", "note")


@dataclass(frozen=True)
class Figure:
    """Measured value with its 95 % confidence interval.

    `n` is the number of items that the interval is over, `of` their name (rows, samples, sentences), `method` the kind of
    interval.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    of: str
    seed: int
    method: str
    unit: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for `--json`; NaN and infinity become null."""
        plain = dict(vars(self)) | {"level": LEVEL}
        for key in ("value", "low", "high"):
            plain[key] = plain[key] if math.isfinite(plain[key]) else None
        return plain

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table's row."""
        interval = f"{_short(self.low)} to {_short(self.high)}" if math.isfinite(self.low) else "none"
        value = f"{_short(self.value)} {self.unit}".rstrip()
        return self.name, value, interval, f"{self.n:,} {self.of}", self.method, self.note


@dataclass
class Report:
    """Report: figures, notes (for example on what could not be measured), a few examples, and errors of failed figures."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Append another report."""
        self.figures += other.figures
        self.notes += other.notes
        self.examples += other.examples
        self.failures += other.failures

    @contextmanager
    def attempt(self, name: str, seed: int) -> Iterator[None]:
        """Keep the other figures if the block fails: report its error beside the figure `name`, which has no value."""
        try:
            yield
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")[:_LONGEST_REASON] or type(error).__name__
            nothing = float("nan")
            self.figures.append(
                Figure(name, nothing, nothing, nothing, 0, "items", seed, "none", "", f"failed: {reason}")
            )
            self.failures.append(error)

    @property
    def is_failed(self) -> bool:
        """Return True if no figure has a value because all attempts failed."""
        return len(self.failures) > 0 and all(math.isnan(figure.value) for figure in self.figures)

    def value(self, name: str) -> float:
        """Return the value of the figure `name`; raises KeyError."""
        return {figure.name: figure.value for figure in self.figures}[name]

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for `--json`."""
        figures = [figure.as_dict() for figure in self.figures]
        return {"figures": figures, "notes": self.notes, "examples": self.examples}

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, its header first; without notes, their column is left out."""
        rows = [HEAD, *(figure.cells() for figure in self.figures)]
        return rows if any(figure.note for figure in self.figures) else [row[:-1] for row in rows]

    def text(self) -> str:
        """Return the table, notes and examples for the terminal."""
        lines = table(self.rows()) if self.figures else []
        lines += [f"note: {note}" for note in self.notes]
        for number, example in enumerate(self.examples, 1):
            lines += [f"--- example {number}", example]
        return "\n".join(lines)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows as lines of aligned columns, with a rule under the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
