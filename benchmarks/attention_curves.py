"""Plot the curves of `benchmarks.attention` over the sequence length, as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Cell = tuple[str, str, bool, int]
"""Contender, form (causal or full), True with backward, tokens."""


def draw(values: Mapping[Cell, float], panels: Sequence[tuple[str, bool]], unit: str, path: Path) -> None:
    """Plot a panel for each form, forward only or with backward, and a curve for each contender; axes are log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 4), layout="constrained", squeeze=False)
    lengths = sorted({tokens for *_, tokens in values})
    for panel, (form, backward) in zip(axes[0], panels, strict=True):
        for name in dict.fromkeys(name for name, *_ in values):
            points = sorted((n, y) for (*cell, n), y in values.items() if cell == [name, form, backward])
            if points:
                panel.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        panel.set(title=f"{form}, forward{' + backward' * backward}", xlabel="tokens", ylabel=unit)
        panel.set_xticks(lengths, [str(n) for n in lengths])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
