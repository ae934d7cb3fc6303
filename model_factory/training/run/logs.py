"""`metrics.jsonl`: one JSON object per line, in step order, without repeated steps after a resume."""

import json
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import atomic_replace
from model_factory.training.run.atomic_io import open_without_links, write_text
from model_factory.yaml_config.errors import escape_line
from model_factory.yaml_config.schema_version import KEY, SCHEMA_VERSION, parse_json

_MAX_INTEGER = 2**53


class MetricsLog:
    """Log file of metrics; a line that was cut off when the process was killed is dropped on resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Append one line; raise OSError if the disk is full."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_to_line(entry))

    def read(self) -> list[dict[str, Any]]:
        """Read all complete lines, an empty list without a file."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = parse_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and type(step := entry.get("step")) is int and 0 <= step < _MAX_INTEGER:
                entries.append({key: value for key, value in entry.items() if key != KEY and _is_plottable(value)})
        return entries

    def drop_after(self, step: int) -> None:
        """Drop the lines after `step`, which will be measured again."""
        if self.path.is_file():
            kept = [entry for entry in self.read() if entry["step"] <= step]
            write_text(self.path, "".join(map(_to_line, kept)))


def _is_plottable(value: object) -> bool:
    """Return False for an integer too large to plot as a float."""
    return type(value) is not int or abs(value) < _MAX_INTEGER


def _to_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry | {KEY: SCHEMA_VERSION}) + "\n"


# Plot `curves.png`: train and validation loss, and the learning rate, over the steps.


Points = tuple[list[int], list[float]]
_SMOOTHED = 50
"""Points from which on a curve is shown with its moving average."""
_WIDE = 10
"""Factor between the largest and the smallest loss above which the axis is logarithmic."""


def draw_curves(
    entries: Sequence[dict[str, Any]],
    path: Path,
    title: str,
    resumed: Collection[int] = (),
    changed: Collection[int] = (),
) -> None:
    """Plot the entries of `metrics.jsonl`, if they have a loss yet; raise OSError if the disk is full.

    Vertical lines mark the steps from which the run was resumed, dotted, or continued with other settings, dashed. A long
    curve of the training loss is shown with its moving average. The axis is logarithmic if the losses differ by a factor
    above 10.
    """
    train, validation, rate = (_points(entries, key) for key in ("loss", "eval_loss", "learning_rate"))
    if not train[0] and not validation[0]:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the import takes 0.5 s, at the first evaluation
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.13, right=0.97, top=0.94, bottom=0.09, hspace=0.08
    )  # fixed margins: a layout engine takes another 0.5 s
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    is_noisy = len(train[1]) >= _SMOOTHED
    if train[0]:
        top.plot(*train, label=None if is_noisy else "train", color="tab:blue", alpha=0.3 if is_noisy else 1.0)
    if is_noisy:
        top.plot(train[0], moving_average(train[1]), label="train, moving average", color="tab:blue")
    if validation[0]:
        top.plot(*validation, label="validation", color="tab:orange", marker="o", markersize=3)
    losses = [loss for loss in (*train[1], *validation[1]) if math.isfinite(loss)]
    is_wide = bool(losses) and min(losses) > 0 and max(losses) > _WIDE * min(losses)
    top.set(ylabel="loss", yscale="log" if is_wide else "linear", title=escape_mathtext(title))
    for steps, style, label in ((set(resumed) - set(changed), ":", "resumed"), (set(changed), "--", "other settings")):
        for number, step in enumerate(sorted(steps)):
            top.axvline(step, linestyle=style, linewidth=1, color="tab:gray", label=None if number else label)
            bottom.axvline(step, linestyle=style, linewidth=1, color="tab:gray")
    top.legend()
    bottom.plot(*rate, color="tab:gray")
    bottom.set(ylabel="learning rate", xlabel="step")
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def moving_average(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Return the exponential moving average of each value and those before it, with weights that add up to 1."""
    total = weight = 0.0
    averages = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        averages.append(total / weight)
    return averages


def escape_mathtext(text: str) -> str:
    """Escape a text for matplotlib: `$` must not start a formula, and unprintable characters become escapes."""
    return escape_line(text).replace("$", r"\$")


def _points(entries: Sequence[dict[str, Any]], key: str) -> Points:
    """Return steps and values of the entries that have `key`."""
    found = [(entry["step"], entry[key]) for entry in entries if key in entry]
    return [step for step, _ in found], [value for _, value in found]


# `samples.txt`: samples of the model at each evaluation.


_HEAD = re.compile(r"^===== step (\d{1,15}) =====\n", re.M)


class SamplesLog:
    """Log file of samples: a section `===== step N =====` per evaluation, with numbered samples."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, samples: Sequence[str]) -> None:
        """Append a section; raise TrainingError if the file is a link, OSError if the disk is full."""
        numbered = "".join(f"--- {number}\n{text}\n" for number, text in enumerate(samples, 1))
        with open_without_links(self.path, "a", errors="replace") as file:
            file.write(f"===== step {step} =====\n{numbered}\n")

    def last_step(self) -> int | None:
        """Return the step of the last section, None if there is no section."""
        if not self.path.is_file():
            return None
        steps = _HEAD.findall(self.path.read_text(encoding="utf-8", errors="replace"))
        return int(steps[-1]) if steps else None

    def drop_after(self, step: int) -> None:
        """Drop the sections after `step`."""
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        later = [match.start() for match in _HEAD.finditer(text) if int(match[1]) > step]
        if later:
            write_text(self.path, text[: later[0]])
