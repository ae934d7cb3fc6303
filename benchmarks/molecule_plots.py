"""Plots of `benchmarks.molecules`: validity over training steps, and the figures of each sampler."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Point = tuple[int, float, float, float]
"""Step, value, and the bounds of its interval."""
_SHOWN = ("validity", "uniqueness", "novelty", "internal_diversity")


def draw_plots(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Plot validity over steps, if there are curves, and the rows' figures with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = 2 if curves else 1
    figure, axes = plt.subplots(1, panels, figsize=(5.2 * panels, 4), layout="constrained", squeeze=False)
    if curves:
        for name, points in curves.items():
            steps, values, low, high = zip(*points, strict=True)
            axes[0][0].plot(steps, values, marker="o", markersize=4, label=name)
            axes[0][0].fill_between(steps, low, high, alpha=0.2)
        axes[0][0].set(xlabel="training steps", ylabel="validity", ylim=(0, 1))
        axes[0][0].grid(alpha=0.3)
        axes[0][0].legend()
    _draw_rows(axes[0][-1], rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_rows(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    for shift, kind in enumerate(_SHOWN):
        found = [
            (index, figure) for index, row in enumerate(rows) for figure in row["figures"] if figure["name"] == kind
        ]
        if not found:
            continue
        values = [figure["value"] for _, figure in found]
        # Wilson's bounds miss 0 and 1 by the last digit
        below = [max(0.0, figure["value"] - figure["low"]) for _, figure in found]
        above = [max(0.0, figure["high"] - figure["value"]) for _, figure in found]
        heights = [index + 0.15 * (shift - 1.5) for index, _ in found]
        panel.errorbar(values, heights, xerr=[below, above], fmt="o", markersize=4, label=kind.replace("_", " "))
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set(xlim=(-0.02, 1.02))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
