"""Comparison of runs: runs that differ only in their seed are one row, with mean and standard deviation over seeds."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_factory.evaluation.figure import table
from model_factory.sweep.folder import MANIFEST, SweepFolder
from model_factory.sweep.grid import SEED, short_names
from model_factory.sweep.records import BEST, RunRecord, is_higher_better, read_run
from model_factory.sweep.run_loop import show_seconds
from model_factory.training.errors import RunFolderError
from model_factory.training.run.resume import FREE

_MAX_KEYS = 5
"""Differing keys up to which they name a row; with more, the folder does."""
_NOT_NAMES = (SEED, *(key for key in FREE if key != "generation"))
"""Beginnings of keys that are averaged over, or that change no weight."""
MARK = " *"
BLANK = "–"


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the run folders among `paths`, those of a sweep in place of its folder, and notes on what is left out."""
    found: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if not (path / MANIFEST).is_file():
            found.append(path)
            continue
        sweep = SweepFolder(path)
        runs, points = sweep.begun_runs(), sweep.read()["points"]
        found += runs
        if len(runs) < len(points):
            notes.append(f"{path}: {len(points) - len(runs)} of {len(points)} runs have not begun")
    unique = list({path.resolve(): path for path in found}.values())
    if not unique:
        raise RunFolderError(f"{', '.join(map(str, paths))}: no run has begun; run the sweep first")
    return unique, notes


@dataclass(frozen=True)
class Statistic:
    """Mean of a metric over the runs of a row that have it, and the standard deviation of the runs (n - 1)."""

    mean: float
    std: float | None
    n: int

    def text(self) -> str:
        """Return `2.31 ± 0.02`, without a deviation for a single run."""
        return f"{self.mean:.4g}" if self.std is None else f"{self.mean:.4g} ± {self.std:.2g}"


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed; `differs` holds the keys in which rows differ, with the row's values."""

    name: str
    differs: dict[str, Any]
    runs: list[RunRecord]

    def statistic(self, metric: str) -> Statistic | None:
        """Return the statistic of a metric over the finished runs, over all if none is finished; None if no run has it."""
        runs = [run for run in self.runs if run.is_finished] or self.runs
        return _statistic([run.metrics[metric] for run in runs if metric in run.metrics])

    @property
    def state(self) -> str:
        """Return the state of the runs: `finished`, or those that are not."""
        states = [run.state for run in self.runs]
        if len(set(states)) == 1:
            return states[0]
        counts = {state: states.count(state) for state in sorted(set(states))}
        return ", ".join(f"{count} {state}" for state, count in counts.items())


@dataclass(frozen=True)
class Comparison:
    """Rows, the best first, their metrics, and the name of the best row for each metric that has a direction."""

    rows: list[Row]
    metrics: list[str]
    best: dict[str, str]
    notes: list[str]

    def cells(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, the header first; the best values end with a star."""
        tokens = any(run.tokens_per_second for row in self.rows for run in row.runs)
        head = ("run", "n", *self.metrics, "steps", "parameters", "tokens/s" if tokens else "steps/s", "time", "state")
        return [head, *(self._cells_of(row, tokens) for row in self.rows)]

    def _cells_of(self, row: Row, tokens: bool) -> tuple[str, ...]:
        metrics = [self._metric_cell(row, metric) for metric in self.metrics]
        speeds = [run.tokens_per_second if tokens else run.steps_per_second for run in row.runs]
        speed, seconds = _mean(speeds), _mean([run.seconds for run in row.runs])
        return (
            row.name,
            str(len(row.runs)),
            *metrics,
            _span([run.step for run in row.runs]),
            _span([run.parameters for run in row.runs]),
            BLANK if speed is None else f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}",
            BLANK if seconds is None else show_seconds(seconds),
            row.state,
        )

    def _metric_cell(self, row: Row, metric: str) -> str:
        found = row.statistic(metric)
        return BLANK if found is None else found.text() + (MARK if self.best.get(metric) == row.name else "")

    def text(self) -> str:
        """Return the table for the terminal."""
        several = any(len(row.runs) > 1 for row in self.rows)
        legend = ["* best"] if self.best else []
        legend += ["mean ± standard deviation over the seeds of a row"] if several else []
        if any(0 < sum(run.is_finished for run in row.runs) < len(row.runs) for row in self.rows):
            legend.append("of a row with finished runs, the others are left out")
        lines = [*table(self.cells()), *(["; ".join(legend)] if legend else []), *(f"note: {n}" for n in self.notes)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison for `--json`."""
        return {"metrics": self.metrics, "notes": self.notes, "rows": [self._row_dict(row) for row in self.rows]}

    def _row_dict(self, row: Row) -> dict[str, Any]:
        metrics = {
            name: {"mean": found.mean, "std": found.std, "n": found.n, "is_best": self.best.get(name) == row.name}
            for name in self.metrics
            if (found := row.statistic(name)) is not None
        }
        return {"name": row.name, "differs": row.differs, "metrics": metrics, "runs": [_run_dict(r) for r in row.runs]}

    def csv(self) -> str:
        """Return the rows as CSV, numbers unrounded, with a column for each differing key."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row.differs))
        columns = [name for metric in self.metrics for name in (metric, f"{metric} std")]
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["run", *keys, "n", *columns, *_FACTS, "state"])
        for row in self.rows:
            found = [row.statistic(metric) for metric in self.metrics]
            values = [value for one in found for value in ((one.mean, one.std) if one else (None, None))]
            facts = [_mean([getattr(run, name) for run in row.runs]) for name in _FACTS]
            settings = [row.differs.get(key) for key in keys]
            whole = [int(fact) if fact is not None and fact == int(fact) else fact for fact in facts]
            writer.writerow([row.name, *settings, len(row.runs), *values, *whole, row.state])
        return target.getvalue()


_FACTS = ("step", "parameters", "steps_per_second", "tokens_per_second", "seconds")


def _run_dict(run: RunRecord) -> dict[str, Any]:
    facts = {name: getattr(run, name) for name in ("seed", "state", "is_finished", "max_steps", *_FACTS)}
    return {"folder": str(run.folder), **facts, "metrics": run.metrics}


def compare_runs(folders: Sequence[Path], notes: Sequence[str] = (), metric: str | None = None) -> Comparison:
    """Read runs and compare them; the rows are sorted by `metric`, or else by the first one that has a direction.

    Raises RunFolderError for a folder that is no run, with the reason.
    """
    records = [read_run(folder) for folder in folders]
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        rest = {key: value for key, value in record.values.items() if not key.startswith(_NOT_NAMES)}
        groups.setdefault(repr(sorted(rest.items())), []).append(record)
    rows = _name_rows(list(groups.values()))
    metrics = list(dict.fromkeys(name for row in rows for run in row.runs for name in run.metrics))
    metrics.sort(key=lambda name: ("eval_loss", BEST).index(name) if name in ("eval_loss", BEST) else 2)
    if metric is not None and metric not in metrics:
        known = ", ".join(metrics) or "none"
        raise RunFolderError(f"--metric {metric}: none of these runs has it; their metrics are: {known}")
    best = {name: found for name in metrics if (found := _best(rows, name)) is not None}
    first = metric or next(iter(best), None)
    rows.sort(key=lambda row: _rank(row, first))
    return Comparison(rows, metrics, best, list(notes))


def _best(rows: Sequence[Row], metric: str) -> str | None:
    """Return the name of the best row, None if the metric has no direction or only one row has it."""
    is_higher = is_higher_better(metric)
    found = {row.name: value.mean for row in rows if (value := row.statistic(metric)) is not None}
    if is_higher is None or len(found) < 2:
        return None
    return max(found, key=lambda name: found[name] if is_higher else -found[name])


def _rank(row: Row, metric: str | None) -> float:
    found = row.statistic(metric) if metric else None
    if found is None:
        return math.inf
    return -found.mean if is_higher_better(metric or "") else found.mean


def _name_rows(groups: Sequence[Sequence[RunRecord]]) -> list[Row]:
    """Name each group by the keys in which groups differ; by its folder if those are too many, or say nothing."""
    columns: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for group in groups for key in group[0].values):
        values = [group[0].values.get(key) for group in groups]
        is_new = values not in columns.values()  # a default that is copied to several keys
        if not key.startswith(_NOT_NAMES) and is_new and any(value != values[0] for value in values):
            columns[key] = values
    keys = list(columns)
    shorts = dict(zip(keys, short_names(keys), strict=True))
    rows = []
    for index, group in enumerate(groups):
        differs = {key: columns[key][index] for key in keys}
        by_keys = ", ".join(f"{shorts[key]} {_show(value)}" for key, value in differs.items())
        name = by_keys if 0 < len(keys) <= _MAX_KEYS else _folder_name(group)
        rows.append(Row(name, differs, list(group)))
    names = [row.name for row in rows]
    return [
        row if names.count(row.name) == 1 else Row(f"{row.name} ({row.runs[0].folder})", row.differs, row.runs)
        for row in rows
    ]


def _folder_name(group: Sequence[RunRecord]) -> str:
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{group[0].folder}{more}"


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)


def _statistic(values: Sequence[float]) -> Statistic | None:
    if not values:
        return None
    return Statistic(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _span(values: Sequence[int | None]) -> str:
    """Return the number that all runs have, or the least and the greatest."""
    known: Mapping[int, None] = dict.fromkeys(sorted(value for value in values if value is not None))
    ends = [f"{value:,}" for value in known]
    return BLANK if not ends else ends[0] if len(ends) == 1 else f"{ends[0]}–{ends[-1]}"
