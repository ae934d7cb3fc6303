"""Measure the length from which linear attention is faster than softmax: `python -m benchmarks.crossover [--write]`.

float32, batch 1, 8 heads, D ln D features for heads of width D; log-log interpolation
between measured lengths. The result is stored in `model_factory.experiment.crossover`, which `--summary` uses.
"""

import argparse
from math import exp, log

from benchmarks.contenders import OURS, SDPA, Shape, make_call
from benchmarks.report import provenance, table, write_section
from benchmarks.timing import Clock
from model.types import default_features

HEADS, WIDTHS, LENGTHS = 8, [32, 64, 128], [256, 512, 1024, 2048, 4096, 8192]


def crossover_length(ratios: dict[int, float]) -> float:
    """Interpolate the length at which linear attention takes as long as softmax, from the measured ratios."""
    (n0, r0), (n1, r1) = sorted(ratios.items())[-2:]
    return exp(log(n0) + log(n1 / n0) * log(r0) / log(r0 / r1))


def ratios_until_faster(clock: Clock, shape: Shape, form: str, *, backward: bool) -> dict[int, float]:
    """Measure the ratio of times, linear over softmax, by length, up to the first that is at most 1."""
    ratios: dict[int, float] = {}
    for tokens in LENGTHS:
        calls = {name: make_call(name, form, shape, tokens, backward=backward) for name in (OURS, SDPA)}
        timings = clock.medians(calls, rounds=9, budget=3)
        ratios[tokens] = timings[OURS].time / timings[SDPA].time
        if ratios[tokens] <= 1:
            break
    return ratios


def main() -> None:
    """Print the table and the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    clock, rows, constants = Clock(given.threads), [], {}
    for width in WIDTHS:
        shape = Shape(HEADS, width, default_features(width))
        for causal in (False, True):
            found = []
            for backward in (False, True):
                form = "causal" if causal else "full"
                ratios = ratios_until_faster(clock, shape, form, backward=backward)
                found.append(crossover_length(ratios))
                shown = [f"{ratios[n]:.2f}" if n in ratios else "" for n in LENGTHS]
                step = "forward + backward" if backward else "forward"
                rows.append([f"{width}", f"{shape.nb_features}", form, step, *shown, f"{found[-1]:.0f}"])
                print(*rows[-1], sep="\t", flush=True)
            constants[width, causal] = tuple(round(tokens) for tokens in found)
    print(constants, f"torch.mm: {clock.peak / 1e9:.0f} GFLOP/s", sep="\n")
    if given.write:
        header = ["head's width", "features", "form", "", *(f"N = {n}" for n in LENGTHS), "equal at N"]
        about = f"{provenance('torch')} torch.mm reached {clock.peak / 1e9:.0f} GFLOP/s.\n\n{(__doc__ or '').split(chr(10) * 2)[1]}"
        title = "## Softmax or linear attention: time of the linear over that of softmax"
        write_section("crossover", "\n".join([title, about, table(header, rows)]))


if __name__ == "__main__":
    main()
