"""Plots as SVG text; equal data give equal text."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from model_factory.training.run.logs import escape_mathtext

Curve = tuple[Sequence[float], Sequence[float]]
"""Positions on the x axis, and the values there."""


def plot_lines(
    curves: Mapping[str, Curve], x: str, y: str, *, log: bool = False, marks: Mapping[str, float] | None = None
) -> str:
    """Plot named curves over one x axis; `log` scales both axes, `marks` are named positions on the x axis."""
    figure, axes = _figure(3.4)
    for name, (positions, values) in curves.items():
        axes.plot(
            positions, values, label=escape_mathtext(name), marker="o" if len(positions) < 3 else "", markersize=3
        )
    for name, position in (marks or {}).items():
        axes.axvline(position, color="0.5", linestyle=":", label=escape_mathtext(name))
    if log:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=escape_mathtext(x), ylabel=escape_mathtext(y))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return _svg(figure)


def plot_groups(groups: Mapping[str, Sequence[Curve]], x: str, y: str) -> str:
    """Plot groups of curves over one x axis, one colour and one name for each group."""
    figure, axes = _figure(3.4 + 0.2 * len(groups))
    for index, (name, curves) in enumerate(groups.items()):
        for number, (positions, values) in enumerate(curves):
            axes.plot(
                positions,
                values,
                color=f"C{index % 10}",
                linestyle=("-", "--", ":")[index // 10 % 3],
                linewidth=1.2,
                marker="o" if len(positions) < 3 else "",
                markersize=3,
                label=escape_mathtext(name) if number == 0 else None,
            )
    axes.set(xlabel=escape_mathtext(x), ylabel=escape_mathtext(y))
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, fontsize="small", loc="outside lower left")
    return _svg(figure)


def plot_bars(values: Mapping[str, Sequence[float]], names: Sequence[str], x: str) -> str:
    """Plot stacked horizontal bars of `names`, one part per kind of value; the first name is on top."""
    figure, axes = _figure(0.7 + 0.32 * len(names))
    left = [0.0] * len(names)
    for kind, widths in values.items():
        axes.barh([*map(escape_mathtext, names)], widths, left=left, label=kind)
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
