"""The curves of `benchmarks.attention` over the sequence length, as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Cell = tuple[str, str, bool, int]
"""Contender, form, whether with backward, tokens."""


def draw(times: Mapping[Cell, float], memory: Mapping[Cell, int], contenders: Sequence[str], path: Path) -> None:
    """Seconds forward and with backward, and bytes with backward, of the causal forms; both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    contents = [
        ("causal, forward", "milliseconds", {cell: 1e3 * time for cell, time in times.items()}, False),
        ("causal, forward + backward", "milliseconds", {cell: 1e3 * time for cell, time in times.items()}, True),
        (
            "causal, forward + backward",
            "peak memory over the inputs, MB",
            {c: b / 1e6 for c, b in memory.items()},
            True,
        ),
    ]
    for panel, (title, unit, values, backward) in zip(panels, contents, strict=True):
        for name in contenders:
            points = sorted(
                (n, y) for (who, form, back, n), y in values.items() if (who, form, back) == (name, "causal", backward)
            )
            if points:
                panel.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        panel.set(title=title, xlabel="tokens", ylabel=unit)
        lengths = sorted({n for *_, n in values})
        panel.set_xticks(lengths, [str(n) for n in lengths])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
