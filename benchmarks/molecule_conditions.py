"""Measure how well samples of molecules match the requested properties, by guidance scale.

    python -m benchmarks.molecule_conditions --run runs/molecules_zinc_properties --condition 4.5,0.8 --condition 0.5,0.8 \\
        --guidance 0 1 2 4 --samples 200 --output docs/molecule_conditions.png

For each condition and scale (0: unconditional, 1: conditional, above 1: extrapolated) it reports the share of samples
that are molecules, and their mean of each property, by rdkit, with a 95 % bootstrap interval.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HEADER = ("asked for", "guidance", "samples", "valid")


def measure(run: Any, condition: str, guidance: float, count: int, seed: int) -> tuple[int, np.ndarray]:
    """Sample; return the number of valid samples, and their properties [valid, size] in the data set's order."""
    from rdkit import Chem

    from data_manager.molecules.corpus import compute_properties
    from model_factory.evaluation.metrics.molecules import canonical_smiles
    from model_factory.evaluation.sampling.draw import draw
    from model_factory.evaluation.sampling.sample import Request

    generation = run.generation.model_copy(update={"num_samples": count, "guidance": guidance})
    asked = replace(run, config=run.config.model_copy(update={"generation": generation}))
    texts = [sample.text for sample in draw(asked, Request(seed=seed, condition=condition)).samples]
    names = run.dataset_config.properties
    found = [compute_properties(Chem.MolFromSmiles(text), names) for text in texts if canonical_smiles(text)]
    return len(found), np.array(found).reshape(len(found), len(names))


def format_mean(values: np.ndarray, seed: int) -> tuple[str, tuple[float, float, float]]:
    """Return the mean of values with its interval, as text and as numbers; empty for fewer than two values."""
    from model_factory.evaluation.metrics.intervals import bootstrap_ratio

    if len(values) < 2:
        return "", (np.nan, np.nan, np.nan)
    interval = bootstrap_ratio(values, seed=seed, what="molecules")
    numbers = float(values.mean()), interval.low, interval.high
    return "{:.2f} ({:.2f}-{:.2f})".format(*numbers), numbers


def draw_plot(
    points: dict[tuple[str, int], list[tuple[float, tuple[float, float, float]]]], names: Any, path: Path
) -> None:
    """Plot a panel for each property: its mean over guidance, by condition, and the requested value dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.8), layout="constrained", squeeze=False)
    for index, name in enumerate(names):
        panel = axes[0][index]
        for number, (condition, column) in enumerate(key for key in points if key[1] == index):
            scales, values = zip(*points[condition, column], strict=True)
            mean, low, high = np.array(values).T
            panel.errorbar(
                scales, mean, yerr=[mean - low, high - mean], marker="o", capsize=3, color=f"C{number}", label=condition
            )
            panel.axhline(float(condition.split(",")[index]), linestyle=":", color=f"C{number}")
        panel.set(xlabel="guidance", ylabel=name)
        panel.grid(alpha=0.3)
    axes[0][0].legend(title="asked for")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and plot; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.molecule_conditions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a diffusion run with properties by rdkit")
    parser.add_argument(
        "--condition", action="append", required=True, metavar="X,Y", help="requested properties; may be repeated"
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0])
    parser.add_argument(
        "--samples", type=int, default=200, help="samples of each condition and scale (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of generation"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="path of the plot, a PNG")
    args = parser.parse_args(argv)
    from benchmarks.report import table
    from model_factory.evaluation.run import open_run

    run = open_run(args.run, [f"generation.{option}" for option in args.set], device="cpu")
    names: Any = run.dataset_config.properties  # type: ignore[attr-defined]
    lines: list[list[str]] = []
    points: dict[tuple[str, int], list[tuple[float, tuple[float, float, float]]]] = {}
    for condition in args.condition:
        for guidance in args.guidance:
            valid, values = measure(run, condition, guidance, args.samples, args.seed)
            line = [condition, f"{guidance:g}", f"{args.samples}", f"{valid / args.samples:.2f}"]
            for index in range(len(names)):
                text, numbers = format_mean(values[:, index], args.seed)
                line.append(text)
                points.setdefault((condition, index), []).append((guidance, numbers))
            lines.append(line)
            print("\t".join(line), file=sys.stderr, flush=True)
    print(table([*HEADER, *names], lines))
    if args.output is not None:
        draw_plot(points, names, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
