"""HTML page that compares runs: the table, the curves of all runs over each other, and the folders."""

from collections.abc import Iterator, Sequence
from typing import Any

from model_factory.pages.document import Section, render_page
from model_factory.pages.plots import Curve, plot_groups
from model_factory.sweep.comparison import Comparison
from model_factory.sweep.records import RunRecord

_LARGEST = 1e100
"""Largest value that is plotted; the comparison also drops NaN."""
_MAX_CURVES = 24
"""Rows whose curves are drawn, the best ones; more colours look alike."""


def render_comparison_page(title: str, comparison: Comparison) -> str:
    """Render the page of a comparison; `title` names the runs."""
    runs = [run for row in comparison.rows for run in row.runs]
    facts = [("runs", str(len(runs))), ("rows", str(len(comparison.rows)))]
    folders = [("run", "folder", "seed", "state"), *_folders(comparison)]
    sections = [
        Section("Runs", "Mean ± standard deviation over the seeds of a row; * marks the best.", comparison.cells()),
        Section("Notes", blocks=comparison.notes),
        *_curves(comparison),
        Section("Folders", rows=folders),
    ]
    shown = [section for section in sections if section.rows or section.svg or section.blocks]
    return render_page(f"{title}: comparison of runs", facts, shown)


def _folders(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for row in comparison.rows:
        for run in row.runs:
            yield row.name, str(run.folder), "" if run.seed is None else str(run.seed), run.state


def _curves(comparison: Comparison) -> Iterator[Section]:
    rows = comparison.rows[:_MAX_CURVES]
    left_out = f" The {len(rows)} best of {len(comparison.rows)} rows." if rows != comparison.rows else ""
    keys = [name for name in comparison.metrics if name.startswith("eval_")]
    for key, what in (*((name, f"{name} over steps") for name in keys), ("loss", "Training loss over steps")):
        groups = {row.name: _lines(row.runs, key) for row in rows}
        if known := {name: lines for name, lines in groups.items() if lines}:
            yield Section(
                what, f"A line for each run, a colour for each row.{left_out}", svg=plot_groups(known, "step", key)
            )


def _lines(runs: Sequence[RunRecord], key: str) -> list[Curve]:
    found: list[Curve] = []
    for run in runs:
        points = [(float(entry["step"]), float(entry[key])) for entry in run.entries if _is_drawn(entry.get(key))]
        if points:
            found.append(([step for step, _ in points], [value for _, value in points]))
    return found


def _is_drawn(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST
