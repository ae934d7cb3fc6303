"""Compare attention: this toolkit's linear core, performer-pytorch's, x-transformers' flash attention and SDPA.

    python -m benchmarks.attention                 # about ten minutes; --lengths 512,2048 for less
    python -m benchmarks.attention --write         # also write the tables to RESULTS.md, the curves to docs/
    python -m benchmarks.attention --part times    # or memory, alone

float32, batch 1, 8 heads of 64, 256 features. The share of torch.mm's peak counts 173,000 FLOP a token and head
forward and three times that with backward; recomputation in backward is not counted.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.attention_curves import Cell, draw
from benchmarks.contenders import OURS, PERFORMER, SDPA, SHAPE, X_TRANSFORMERS, make_call
from benchmarks.peak_memory import measure_in_subprocess
from benchmarks.report import provenance, table, write_section
from benchmarks.timing import Clock, Timing

CONTENDERS = [OURS, PERFORMER, X_TRANSFORMERS, SDPA]
FLOPS = 173e3
LONGEST = {(PERFORMER, "causal", False): 4096, (PERFORMER, "causal", True): 4096}
"""Maximum length of a contender; performer-pytorch's causal form takes 1.5 MB a token with backward."""
TIMES, MEMORY = Path("docs/attention.png"), Path("docs/attention_memory.png")

VERSIONS = partial(provenance, "torch", "performer-pytorch", "x-transformers")


def cells(lengths: list[int], form: str, backward: bool) -> Iterator[Cell]:
    """Yield the cells to measure of one form."""
    for tokens in lengths:
        for name in CONTENDERS:
            if tokens <= LONGEST.get((name, form, backward), tokens):
                yield name, form, backward, tokens


def time_all(lengths: list[int], clock: Clock, rounds: int, budget: float) -> dict[Cell, Timing]:
    """Measure the median of every cell; the contenders of one length are interleaved."""
    timings: dict[Cell, Timing] = {}
    for form in ("causal", "full"):
        for backward in (False, True):
            for tokens in lengths:
                chosen = {cell[0]: cell for cell in cells([tokens], form, backward)}
                calls = {name: make_call(name, form, SHAPE, tokens, backward=backward) for name in chosen}
                measured = clock.medians(calls, rounds=rounds, budget=budget)
                timings |= {chosen[name]: timing for name, timing in measured.items()}
                print(time_table(timings, [tokens], form, backward), flush=True)
    return timings


def time_table(timings: dict[Cell, Timing], lengths: list[int], form: str, backward: bool) -> str:
    """Format milliseconds, with the ratio to ours in brackets."""
    header = [f"{form}, forward{' + backward' * backward}: N", *(f"{name}, ms" for name in CONTENDERS)]
    header += ["ours, share of mm", "torch.mm, GFLOP/s", "measurements (busy ones left out)"]
    rows = []
    for tokens in lengths:
        line = [timings.get((name, form, backward, tokens)) for name in CONTENDERS]
        ours = line[0]
        assert ours is not None
        shown = [
            "–" if one is None else f"{1e3 * one.time:.1f}" + f" ({one.time / ours.time:.2f}×)" * (one is not ours)
            for one in line
        ]
        share = ours.share(FLOPS * SHAPE.heads * tokens * (3 if backward else 1))
        counts = ", ".join(f"{one.calm} ({one.busy})" for one in line if one is not None)
        mark = f"{100 * share:.0f} %" if form == "causal" else "–"
        rows.append([f"{tokens}", *shown, mark, f"{ours.speed / 1e9:.0f}", counts])
    return table(header, rows) + "\n"


def memory_table(lengths: list[int]) -> tuple[str, dict[Cell, int]]:
    """Measure peak memory above the inputs in MB, each call in a separate process."""
    found: dict[Cell, int] = {}
    rows = []
    for form, backward in [("causal", False), ("causal", True), ("full", False), ("full", True)]:
        chosen = set(cells(lengths, form, backward))
        for tokens in lengths:
            line = [f"{form}, forward{' + backward' * backward}", f"{tokens}"]
            for name in CONTENDERS:
                cell = (name, form, backward, tokens)
                peak = measure_in_subprocess(name, form, tokens, backward=backward) if cell in chosen else None
                line.append("–" if peak is None else f"{peak / 1e6:.0f}")
                if peak is not None:
                    found[cell] = peak
            rows.append(line)
    return table(["memory", "N", *(f"{name}, MB" for name in CONTENDERS)], rows) + "\n", found


def measure_times(lengths: list[int], threads: int, rounds: int, budget: float, *, write: bool) -> None:
    """Print the tables of times, and optionally write them and the curves."""
    timings = time_all(lengths, Clock(threads), rounds, budget)
    if write:
        show = partial(time_table, timings, lengths)
        tables = [show(form, backward) for form in ("causal", "full") for backward in (False, True)]
        clock = "processor time of one thread" if threads == 1 else f"wall clock, {threads} threads"
        write_section("attention, times", "\n".join([f"## Attention: time, {clock}", VERSIONS() + "\n", *tables]))
        milliseconds = {cell: 1e3 * timing.time for cell, timing in timings.items()}
        draw(milliseconds, [("causal", False), ("causal", True), ("full", True)], "milliseconds", TIMES)


def measure_memory(lengths: list[int], *, write: bool) -> None:
    """Print the table of peak memory, and optionally write it and the curves."""
    text, peaks = memory_table(lengths)
    print(text)
    if write:
        write_section(
            "attention, memory", "\n".join(["## Attention: peak memory over the inputs", VERSIONS() + "\n", text])
        )
        megabytes = {cell: peak / 1e6 for cell, peak in peaks.items()}
        draw(
            megabytes, [("causal", False), ("causal", True), ("full", True)], "peak memory over the inputs, MB", MEMORY
        )


def main() -> None:
    """Measure, print, and optionally write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each call on an idle machine")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds after which a slow call is not repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=["times", "memory"], help="measure only this part")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and the figures")
    given = parser.parse_args()
    lengths = [int(tokens) for tokens in given.lengths.split(",")]
    if given.part != "memory":
        measure_times(lengths, given.threads, given.rounds, given.budget, write=given.write)
    if given.part != "times":
        measure_memory(lengths, write=given.write)


if __name__ == "__main__":
    main()
