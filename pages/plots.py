"""Plots as SVG text for a page; equal data give equal text."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from training.curves import literal

Curve = tuple[Sequence[float], Sequence[float]]
"""Places on x, and values there."""


def plot_lines(
    curves: Mapping[str, Curve], x: str, y: str, *, log: bool = False, marks: Mapping[str, float] | None = None
) -> str:
    """Named curves over one x axis; `log` on both axes, `marks` are named places on x."""
    figure, axes = _figure(3.4)
    for name, (places, values) in curves.items():
        axes.plot(places, values, label=literal(name), marker="o" if len(places) < 3 else "", markersize=3)
    for name, place in (marks or {}).items():
        axes.axvline(place, color="0.5", linestyle=":", label=literal(name))
    if log:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=literal(x), ylabel=literal(y))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return _svg(figure)


def plot_bars(values: Mapping[str, Sequence[float]], names: Sequence[str], x: str) -> str:
    """Horizontal bars of `names`, one on another for each kind of value; the first name on top."""
    figure, axes = _figure(0.7 + 0.32 * len(names))
    left = [0.0] * len(names)
    for kind, widths in values.items():
        axes.barh([*map(literal, names)], widths, left=left, label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel=x)
    if len(values) > 1:
        axes.legend(frameon=False)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.hashsalt": "page", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
