"""Spread of the bound: by counts of masks against times, for a block by enumeration and for a run by its evaluations.

    python -m benchmarks.bound_spread [--run runs/mdlm] [--rows 32] [--seeds 100]

The first table is exact: mean and variance of one draw of the loss of a block of four tokens of a chain, with the exact
network, in nats of the block. The second has the standard deviation over seeds of the bound of a run in nats per token, as
`evaluate.py --draws K` computes it, and with times instead of counts. With eps > 0 a draw by time makes two network calls, one
of them for the prior part, so rows of equal calls compare.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.report import provenance, table, write_section
from tests.oracles.mask_counts import BlockLoss, chain, entropy

STAYS = (0.34, 0.6, 0.7, 0.8)
CALLS = (8, 4)


def chain_table() -> str:
    """Format means and variances for chains of different order."""
    rows = []
    for stay in STAYS:
        joint = chain(stay)
        block = BlockLoss(joint)
        ways = (block.by_count(), block.by_time(1e-3, 1.0), block.by_time(0.5, 1.0))
        rows.append([f"{stay:g}", f"{entropy(joint):.4f}", *(f"{mean:.4f}, {spread:.2f}" for mean, spread in ways)])
    return table(
        ["p(same letter)", "entropy", "by counts: mean, variance", "t in [1e-3, 1]", "t in [0.5, 1], clipped"], rows
    )


def spread(run: Any, split: Any, draws: int, seeds: int) -> tuple[float, float]:
    """Return mean and standard deviation over seeds of a run's bound, in nats per token."""
    from model_factory.evaluation.metrics.bound import bound
    from model_factory.evaluation.settings import Settings

    found = []
    for seed in range(seeds):
        total, _ = bound(run, split, Settings(seed=seed, draws=draws))
        found.append(sum(total.nats) / sum(total.tokens))
    return statistics.mean(found), statistics.stdev(found)


def run_table(folder: Path, rows: int, seeds: int) -> str:
    """Format the spread of a run's bound at equal network calls."""
    from model_factory.evaluation.rows import load_split
    from model_factory.evaluation.run import open_run

    run = open_run(folder, [])
    split = load_split(run, None, max_rows=rows, seed=0)
    by_time = type("ByTime", (type(run.model.objective),), {})  # a subclass does not inherit the count form
    calls_by_time, kind = 1 + run.model.objective.needs_limit, type(run.model.objective)
    lines = []
    for calls in CALLS:
        run.model.objective.__class__ = kind
        mean, counted = spread(run, split, calls, seeds)
        lines.append([str(calls), "counts", str(calls), f"{mean:.4f}", f"{counted:.4f}", "1"])
        run.model.objective.__class__ = by_time
        for draws in sorted({calls // calls_by_time, calls}):
            mean, timed = spread(run, split, draws, seeds)
            made = str(draws * calls_by_time)
            lines.append([made, "times", str(draws), f"{mean:.4f}", f"{timed:.4f}", f"{counted / timed:.2f}"])
        print(*lines[-3:], sep="\n", flush=True)
    head = ["network calls per row", "drawn by", "draws", "mean bound", "standard deviation", "counts over it"]
    return table(head, lines)


def main() -> None:
    """Print the tables and write them to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of a diffusion model with absorbing noise")
    parser.add_argument("--rows", type=int, default=32, help="rows of its test split (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=100, help="evaluations of each kind (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    args = parser.parse_args()
    tables = [chain_table(), *([run_table(args.run, args.rows, args.seeds)] if args.run else [])]
    print("\n\n".join(tables))
    if args.write:
        write_section("bound spread", "\n\n".join(["## Spread of the bound", provenance("torch"), *tables]))


if __name__ == "__main__":
    main()
