"""`curves.png`: the loss on train and validation, and the learning rate, over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import replacing
from yaml_config.errors import printable

Points = tuple[list[int], list[float]]


def draw_curves(entries: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw what `metrics.jsonl` holds; nothing where it holds no loss yet. OSError where the disk is full."""
    train, validation, rate = (_points(entries, key) for key in ("loss", "eval_loss", "learning_rate"))
    if not train[0] and not validation[0]:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 0.5 s, paid at the first evaluation
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.13, right=0.97, top=0.94, bottom=0.09, hspace=0.08)  # a layout engine takes as long
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for points, label, mark in ((train, "train", ""), (validation, "validation", "o")):
        if points[0]:
            top.plot(*points, label=label, marker=mark, markersize=3)
    top.set(ylabel="loss", title=literal(title))
    top.legend()
    bottom.plot(*rate, color="tab:gray")
    bottom.set(ylabel="learning rate", xlabel="step")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def literal(text: str) -> str:
    """A text that matplotlib draws as it is: `$` begins no formula, and characters that no font has are escapes."""
    return printable(text).replace("$", r"\$")


def _points(entries: Sequence[dict[str, Any]], key: str) -> Points:
    found = [(entry["step"], entry[key]) for entry in entries if key in entry]
    return [step for step, _ in found], [value for _, value in found]
