"""Certificates: exact distance of each sampler's output distribution from the data, with an oracle as the network.

    python -m benchmarks.certificates [--steps 1 2 4 ...] [--toys 3] [--output docs/certificates.png] [--page F]

Toy distributions of three tokens at three positions are enumerated: transition kernels are multiplied over all
sequences, and nothing is sampled. The table shows which samplers are exact, which converge and how fast (order:
halvings of the distance at each doubling of the steps), and which do neither. Further tables show the distance from
p(x | prompt), how tight the bound of entropy_bounded is, which samplers are robust to errors of the network, and how
much stratified times reduce the variance of the loss. `--page docs/diffusion.md` writes these tables, and those of valid
combinations, into the documentation.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.entropy_bounds import bounds_table
from benchmarks.erring_networks import erring_table
from benchmarks.prompted import prompts_table
from model_factory.diffusion.objectives.losses import Objective, SubsLoss, UdlmLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from model_factory.diffusion.registry import SAMPLERS
from model_factory.diffusion.samplers.base import samplers_for
from tests.oracles.diffusion_bounds import pairs
from tests.oracles.diffusion_propagation import oracle_sampler, sampler_distribution
from tests.oracles.diffusion_toy import VOCABULARY, Toy
from tests.oracles.hybrid_toy import HybridToy
from tools.documentation.diffusion_tables import fill_table, render_combinations_table, render_samplers_table

SCHEDULES: dict[str, NoiseSchedule] = {
    "loglinear": LogLinearNoise(1e-3),
    "cosine": CosineNoise(1e-3),
    "geometric": GeometricNoise(1e-4, 20.0),
}
P_UNIFORM = 0.3
GRAPHS = {
    "absorbing": AbsorbingGraph(VOCABULARY),
    "uniform": UniformGraph(VOCABULARY),
    "hybrid": HybridGraph(VOCABULARY, P_UNIFORM),
}
FLOOR = 1e-4  # where the plot draws an exact distribution
PIECES = 64  # intervals of time for the quadrature of variances
SETTINGS = {"entropy_bounded": {"gamma": 1.0}}
"""Settings of samplers whose defaults show no effect: two of three tokens are never within the default gamma."""
DEFAULT_STEPS = [1, 2, 4, 8, 16, 32, 64, 128]


@dataclass(frozen=True)
class Certificate:
    """Distances of one sampler under one process: mean total variation over the toys, for each number of steps."""

    process: str
    schedule: str
    sampler: str
    distances: list[float]

    @property
    def order(self) -> float | None:
        """Return log2 of the last ratio of distances, with doubled steps; None if the distance does not change."""
        if len(self.distances) < 2 or self.distances[-1] < 1e-12:
            return None
        order = math.log2(self.distances[-2] / self.distances[-1])
        return order if abs(order) > 0.05 else None


def make_process(process: str, schedule: str) -> DiffusionProcess:
    """Build the toy's process with the named schedule."""
    return DiffusionProcess(*GRAPHS[process].at_pace(SCHEDULES[schedule]))


def make_toy(process: str, seed: int) -> Toy:
    """Draw a toy distribution for the process."""
    return HybridToy.drawn(seed, P_UNIFORM) if process == "hybrid" else Toy.random(seed, process == "absorbing")


def certify(process: str, schedule: str, sampler: str, steps: list[int], toys: int) -> Certificate:
    """Compute the exact distances of one combination."""
    shared, distances = make_process(process, schedule), []
    for count in steps:
        total_variations = []
        for seed in range(toys):
            toy = make_toy(process, seed)
            choice = {"type": sampler, **SETTINGS.get(sampler, {})}
            total_variations.append(
                toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, shared, choice, count)))
            )
        distances.append(sum(total_variations) / toys)
    return Certificate(process, schedule, sampler, distances)


def all_certificates(steps: list[int], toys: int) -> list[Certificate]:
    """Certify every valid combination of process, schedule and sampler."""
    return [
        certify(process, schedule, sampler, steps, toys)
        for process in GRAPHS
        for schedule in SCHEDULES
        for sampler in samplers_for(make_process(process, schedule).graph)
    ]


def table(certificates: list[Certificate], steps: list[int]) -> str:
    """Format the certificates as Markdown."""
    lines = [
        "| process | schedule | sampler | accuracy | " + " | ".join(map(str, steps)) + " | order |",
        "| " + " | ".join(["---"] * (len(steps) + 5)) + " |",
    ]
    for row in certificates:
        numbers = ["0" if value < 1e-12 else f"{value:.1e}" for value in row.distances]
        order = "-" if row.order is None else f"{row.order:.2f}"
        cells = [row.process, row.schedule, _label(row.sampler), SAMPLERS.get(row.sampler).accuracy, *numbers, order]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _label(sampler: str) -> str:
    return ", ".join([sampler, *(f"{name} {value:g}" for name, value in SETTINGS.get(sampler, {}).items())])


def draw(certificates: list[Certificate], steps: list[int], path: Path) -> None:
    """Plot distance over steps, both logarithmic, in one panel for each process and schedule."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys((row.process, row.schedule) for row in certificates))
    names = list(dict.fromkeys(row.sampler for row in certificates))
    figure, axes = plt.subplots(len(GRAPHS), len(SCHEDULES), figsize=(12, 10), sharex=True, sharey=True)
    for (process, schedule), axis in zip(panels, axes.flat, strict=True):
        for row in certificates:
            if (row.process, row.schedule) == (process, schedule):
                index = names.index(row.sampler)
                shown = [max(value, FLOOR) for value in row.distances]
                # Hollow markers of decreasing size, so that coinciding curves are visible.
                style = {"marker": "osD^vxP*ph"[index % 10], "markersize": 14 - 1.1 * index, "fillstyle": "none"}
                axis.loglog(steps, shown, color=f"C{index}", linewidth=1, label=_label(row.sampler), **style)
        axis.set_title(f"{process}, {schedule}", fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_xticks(steps, [str(count) for count in steps])
        axis.grid(alpha=0.3)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(), loc="upper center", ncols=(len(names) + 1) // 2, frameon=False
    )
    figure.supxlabel("steps (first_hitting and entropy_bounded count their own)", fontsize=10)
    figure.supylabel("total variation from the data (exact at the bottom)", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def strata_variances(
    objective: Objective, toy: Toy, batch_sizes: Sequence[int], t_min: float = 1e-3
) -> list[tuple[float, float]]:
    """Compute by quadrature the variance of a batch's mean loss with independent and with stratified times.

    Batch sizes divide PIECES, so that all use the same quadrature. Times start at t_min: the weight 1 / t of a single
    mask has a variance that diverges as log(1 / t).
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(t_min, 1, PIECES + 1)
    times = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * (nodes + 1) / 2
    moments = torch.tensor([loss_moments(objective, toy, float(t)) for t in times.flat], dtype=torch.float64)
    pieces = (moments.view(PIECES, 8, 2) * torch.from_numpy(weights)[:, None] / 2).sum(1)
    found = []
    for size in batch_sizes:
        strata = pieces.view(size, PIECES // size, 2).mean(1)
        mean, square = strata.mean(0)
        independent, stratified = square - mean**2, (strata[:, 1] - strata[:, 0] ** 2).mean()
        found.append((float(independent) / size, float(stratified) / size))
    return found


def loss_moments(objective: Objective, toy: Toy, t: float) -> tuple[float, float]:
    """Return mean and mean square of a sequence's loss at time t."""
    clean, noisy, probability = pairs(toy, sigma := objective.schedule.sigma(t))
    output = toy.oracle(toy.states, sigma.expand(len(toy.states)))[noisy]
    times = torch.full((len(noisy),), t, dtype=torch.float64)
    loss = objective.diffusion(output, toy.states[noisy], toy.data[clean], times).sum(-1)
    return float((probability * loss).sum()), float((probability * loss**2).sum())


def strata_table(batch_sizes: Sequence[int] = (4, 16, 64)) -> str:
    """Format the variance reduction by stratified times as Markdown."""
    lines = ["| objective | schedule | batch | independent | stratified | saved |", "|" + " --- |" * 6]
    for name, schedule in (("mdlm", "loglinear"), ("mdlm", "cosine"), ("udlm", "loglinear"), ("udlm", "geometric")):
        process = make_process("absorbing" if name == "mdlm" else "uniform", schedule)
        objective = SubsLoss(process) if name == "mdlm" else UdlmLoss(process)
        variances = strata_variances(objective, Toy.random(0, process.graph.absorbing), batch_sizes)
        for size, (plain, stratified) in zip(batch_sizes, variances, strict=True):
            saved = f"{100 * (1 - stratified / plain):.0f} %"
            lines.append(f"| {name} | {schedule} | {size} | {plain:.4f} | {stratified:.4f} | {saved} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=DEFAULT_STEPS, help="numbers of steps, each doubled")
    parser.add_argument("--toys", type=int, default=3, help="toys that distances are averaged over")
    parser.add_argument("--output", type=Path, default=Path("certificates.png"), help="path of the plot")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices are tiny
    certificates = all_certificates(arguments.steps, arguments.toys)
    tables = {
        "certificates": table(certificates, arguments.steps),
        "prompts": prompts_table(),
        "bounds": bounds_table(),
        "erring": erring_table(),
        "strata": strata_table(),
    }
    print("Total variation from the data, by steps (first_hitting and entropy_bounded count their own):\n")
    print(tables["certificates"])
    print("\nTotal variation from p(x | prompt), the last of three tokens given:\n")
    print(tables["prompts"])
    print("\nCalls and distance of entropy_bounded by gamma:\n")
    print(tables["bounds"])
    print("\nTotal variation from the data with noise added to the oracle's logits, 128 steps:\n")
    print(tables["erring"])
    print("\nVariance of a batch's mean loss (nats a sequence, times from 0.001):\n")
    print(tables["strata"])
    draw(certificates, arguments.steps, arguments.output)
    print(f"\n{arguments.output}")
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        for name, rows in {
            "combinations": render_combinations_table(),
            "samplers": render_samplers_table(),
            **tables,
        }.items():
            text = fill_table(text, name, rows)
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
