"""Order of rows: time of the rows of a step and memory, computed row by row and as a whole permutation.

    python -m benchmarks.row_order

It measures CPU time, so that other processes on the machine matter little. It also counts what a random order rarely has:
fixed points (one is expected at any number of rows) and correlation between neighbours and between epochs.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from model_factory.training.row_order import HashedOrder, Order, RowOrder

STEP = 512
STEPS = 200


def milliseconds(create: Callable[[], Order]) -> tuple[float, float]:
    """Return the CPU time of the first step's rows, with the order's creation, and the mean of later steps."""
    create().index(0)  # imports and caches of torch
    start = time.process_time()
    order = create()
    for position in range(STEP):
        order.index(position)
    first = time.process_time() - start
    start = time.process_time()
    for position in range(STEP, STEP * (STEPS + 1)):
        order.index(position)
    return 1e3 * first, 1e3 * (time.process_time() - start) / STEPS


def kilobytes(create: Callable[[], Order]) -> float:
    """Return the peak of the memory that Python and numpy allocate for the first step's rows."""
    tracemalloc.start()
    order = create()
    for position in range(STEP):
        order.index(position)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e3


def describe_randomness(count: int) -> str:
    """Return fixed points and correlations of two epochs of `count` rows."""
    order = HashedOrder(count, 0)
    stream = np.array([order.index(position) for position in range(2 * count)])
    first, second = stream[:count], stream[count:]
    fixed = int((first == np.arange(count)).sum())
    serial, epochs = (np.corrcoef(one, other)[0, 1] for one, other in ((first[:-1], first[1:]), (first, second)))
    return f"{count:,} rows: {fixed} fixed points, correlation {serial:.1e} of neighbours, {epochs:.1e} of two epochs"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000_000, help="rows of the order (default: %(default)s)")
    parser.add_argument("--permuted", type=int, default=10_000_000, help="rows of a whole permutation")
    args = parser.parse_args()
    for name, count, kind in (("computed", args.rows, HashedOrder), ("permuted", args.permuted, RowOrder)):
        first, later = milliseconds(lambda count=count, kind=kind: kind(count, 0))
        memory = kilobytes(lambda count=count, kind=kind: kind(count, 0)) if kind is HashedOrder else 8 * count / 1e3
        print(f"{name}, {count:,} rows: first {STEP} {first:.1f} ms, later {later:.2f} ms, {memory:,.0f} kB")
    print(describe_randomness(1_000_000))


if __name__ == "__main__":
    main()
