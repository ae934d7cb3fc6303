"""HTML page of a run's evaluation: figures with their intervals, training curves and samples."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_factory.evaluation.figure import Report
from model_factory.pages.document import Section, render_page
from model_factory.pages.plots import Curve, plot_lines
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.logs import MetricsLog
from model_factory.training.run.resume import read_history

_FACTS = ("run", "model", "task", "dataset", "split", "rows", "seed", "seconds")
_NAME = re.compile(r"eval_\w{1,60}", re.ASCII)
_LARGEST = 1e100
"""Largest value that is plotted; the comparison also drops NaN."""
_MAX_CURVES = 24
"""Maximum number of metric curves; each takes 0.1 s to plot."""
_MAX_EVALUATIONS = 4
"""Number of last evaluations during training whose samples are shown."""


def render_evaluation_page(folder: Path, facts: dict[str, Any], report: Report) -> str:
    """Render the page of a run's folder; `facts` and `report` are the content of `evaluate.py --json`."""
    run = RunFolder(folder)
    history = read_history(run)
    sections = [
        Section(
            "Figures",
            "Each with its 95 % interval, by bootstrap unless the column 'interval by' names another method.",
            report.rows(),
        ),
        Section("Notes", blocks=report.notes),
        *_curves(MetricsLog(run.metrics).read(), history),
        *changed_settings(history),
        Section("Examples", blocks=report.examples),
        *_samples(run.samples),
        Section(
            "Configuration",
            "The file of the training, with all defaults.",
            blocks=[run.config.read_text(encoding="utf-8")],
        ),
    ]
    shown_facts = [(name, str(facts[name])) for name in _FACTS if facts.get(name) is not None]
    shown = [section for section in sections if section.rows or section.svg or section.blocks]
    return render_page(f"{facts.get('model') or folder.name}: evaluation", shown_facts, shown)


def _curves(entries: list[dict[str, Any]], history: list[dict[str, Any]]) -> Iterator[Section]:
    marks = {f"other settings from step {entry['from_step']:,}": float(entry["from_step"]) for entry in history[1:]}
    found = {name: _line(entries, key) for name, key in (("training", "loss"), ("evaluation", "eval_loss"))}
    if any(steps for steps, _ in found.values()):
        known = {name: line for name, line in found.items() if line[0]}
        yield Section("Loss over steps", svg=plot_lines(known, "step", "loss", marks=marks))
    rate = _line(entries, "learning_rate")
    if rate[0]:
        yield Section("Learning rate", svg=plot_lines({"learning rate": rate}, "step", "learning rate", marks=marks))
    others = sorted({key for entry in entries for key in entry if _NAME.fullmatch(key) and key != "eval_loss"})
    for key in others[:_MAX_CURVES]:
        name = key.removeprefix("eval_")
        yield Section(f"{name} over steps", svg=plot_lines({name: _line(entries, key)}, "step", name))


def changed_settings(history: list[dict[str, Any]]) -> Iterator[Section]:
    """Yield the settings that changed when the run continued, if it did."""
    rows = [
        (f"{entry['from_step']:,}", str(change["key"]), str(change.get("before")), str(change.get("after")))
        for entry in history[1:]
        for change in entry.get("changed", ())
    ]
    if rows:
        yield Section("Changed settings", rows=[("from step", "key", "before", "after"), *rows])


def _line(entries: list[dict[str, Any]], key: str) -> Curve:
    measured = [entry for entry in entries if isinstance(entry.get(key), int | float) and abs(entry[key]) < _LARGEST]
    found = [(float(entry["step"]), float(entry[key])) for entry in measured]
    return [step for step, _ in found], [value for _, value in found]


def _samples(path: Path) -> Iterator[Section]:
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    parts = [part for part in re.split(r"^(?====== step \d+ =====$)", text, flags=re.MULTILINE) if part.strip()]
    if parts:
        yield Section(
            "Samples during training",
            f"Of the last {min(_MAX_EVALUATIONS, len(parts))} evaluations, the newest first.",
            blocks=parts[: -_MAX_EVALUATIONS - 1 : -1],
        )
