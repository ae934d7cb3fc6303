"""Plot `curves.png`: train and validation loss, and the learning rate, over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import atomic_replace
from yaml_config.errors import printable

Points = tuple[list[int], list[float]]


def draw_curves(entries: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Plot the entries of `metrics.jsonl`, if they have a loss yet; raise OSError if the disk is full."""
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
    for points, label, mark in ((train, "train", ""), (validation, "validation", "o")):
        if points[0]:
            top.plot(*points, label=label, marker=mark, markersize=3)
    top.set(ylabel="loss", title=escape_mathtext(title))
    top.legend()
    bottom.plot(*rate, color="tab:gray")
    bottom.set(ylabel="learning rate", xlabel="step")
    with atomic_replace(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def escape_mathtext(text: str) -> str:
    """Escape a text for matplotlib: `$` must not start a formula, and unprintable characters become escapes."""
    return printable(text).replace("$", r"\$")


def _points(entries: Sequence[dict[str, Any]], key: str) -> Points:
    """Return steps and values of the entries that have `key`."""
    found = [(entry["step"], entry[key]) for entry in entries if key in entry]
    return [step for step, _ in found], [value for _, value in found]
