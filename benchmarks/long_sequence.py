"""Run a linear encoder over a million tokens on a CPU, beside softmax at shorter lengths.

    python -m benchmarks.long_sequence                      # five minutes; --longest 65536 for less
    python -m benchmarks.long_sequence --write

Width 256, 4 layers, 4 heads, 256 features, float32, batch 1, forward only. Each length runs in a separate process,
whose whole resident set is reported, with THP_MEM_ALLOC_ENABLE=1: torch then allocates huge pages of 2 MB if Linux has
them, and the first touch of a gigabyte costs a hundredth of that with pages of 4 kB.
"""

import argparse
import os
import subprocess
import sys
from math import log
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.peak_memory import resident_bytes
from benchmarks.report import provenance, table, write_section
from benchmarks.timing import Clock
from model.transformer.performer import PerformerEncoder
from model.types import PerformerParams

LENGTHS = [8192, 16_384, 32_768, 65_536, 262_144, 1_048_576]
FIRST, LONGEST, LONGEST_SOFTMAX = LENGTHS[0], LENGTHS[-1], 32_768
FIGURE = Path("docs/long_sequence.png")


def make_encoder(attention_type: str) -> PerformerEncoder:
    """Build the encoder over bytes, with weights drawn from seed 0."""
    torch.manual_seed(0)
    shape = {"d_model": 256, "num_layers": 4, "num_heads": 4, "vocab_size": 256, "device": "cpu", "dropout": 0.0}
    features = {"nb_features": 256} if attention_type == "linear" else {}
    return PerformerEncoder(PerformerParams(**shape, **features, attention_type=attention_type)).eval()


def random_bytes(length: int) -> Tensor:
    """Draw random bytes [1, length]."""
    return torch.randint(256, (1, length), generator=torch.Generator().manual_seed(1))


def unchunked_hidden(encoder: PerformerEncoder, ids: Tensor) -> Tensor:
    """Compute hidden states in float64 with all intermediate results in memory: all features at once, no chunks."""
    encoder = encoder.double()
    for layer in encoder.layers:
        layer.self_attention.sublayer.core.forward = _unchunked_core(layer.self_attention.sublayer.core)
    return encoder.hidden(ids)  # with a graph, so that nothing is chunked


def _unchunked_core(core):  # type: ignore[no-untyped-def]
    def attend(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, causal: bool) -> Tensor:
        log_k = core.features.log_key(k)
        phi_q, phi_k = core.features.log_query(q).softmax(-1), (log_k - log_k.amax()).exp()
        return phi_q @ (phi_k.mT @ v) / (phi_q @ phi_k.sum(-2).unsqueeze(-1))

    return attend


def difference_from_unchunked(length: int) -> float:
    """Return the relative norm of the difference of the hidden states from the unchunked form."""
    ids, encoder = random_bytes(length), make_encoder("linear")
    with torch.no_grad():
        fast = encoder.hidden(ids)
    wanted = unchunked_hidden(encoder, ids).detach()
    return float((fast - wanted).norm() / wanted.norm())


def run_once(attention_type: str, length: int, threads: int) -> None:
    """Print seconds, peak resident bytes and the peak speed of torch.mm, for the parent process."""
    clock, encoder, ids = Clock(threads), make_encoder(attention_type), random_bytes(length)
    with torch.no_grad():
        encoder.hidden(ids[:, :512])
        start = perf_counter()
        out = encoder.hidden(ids)
        time = perf_counter() - start
    assert out.isfinite().all()
    print(time, resident_bytes("VmHWM"), clock.peak)


def measure_in_subprocess(attention_type: str, length: int, threads: int) -> tuple[float, float, float]:
    """Return seconds and bytes of one run, and the FLOP a second of torch.mm."""
    command = [sys.executable, "-m", __spec__.name, "--once", attention_type, str(length), "--threads", str(threads)]
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    time, memory, speed = map(float, out.split()[-3:])
    return time, memory, speed


def slope(times: dict[int, float]) -> float:
    """Return the least-squares slope of log time over log length."""
    points = [(log(n), log(t)) for n, t in times.items()]
    x0, y0 = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def measure(longest: int, threads: int) -> tuple[str, dict[str, dict[int, float]]]:
    """Measure all lengths; return the table, and seconds by kind of attention and length."""
    rows, times = [], {"linear": {}, "softmax": {}}  # type: tuple[list[list[str]], dict[str, dict[int, float]]]
    for length in (length for length in LENGTHS if length <= longest):
        for kind in ("linear", "softmax"):
            if kind == "linear" or length <= LONGEST_SOFTMAX:
                time, memory, speed = measure_in_subprocess(kind, length, threads)
                times[kind][length] = time
                shown = [kind, f"{length:,}", f"{time:.2f}", f"{memory / 1e9:.2f}", f"{speed / 1e9:.0f}"]
                rows.append(shown)
                print(*shown, sep="\t", flush=True)
    return table(["attention", "tokens", "seconds", "GB, whole process", "torch.mm, GFLOP/s"], rows), times


def draw(times: dict[str, dict[int, float]]) -> None:
    """Plot both curves as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, points in times.items():
        panel.loglog(list(points), list(points.values()), marker="o", label=kind)
    panel.set(xlabel="tokens", ylabel="seconds", title="Encoder of width 256, 4 layers, forward")
    panel.grid(alpha=0.3)
    panel.legend()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Measure, print, and optionally write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=LONGEST)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and the figure")
    parser.add_argument("--once", nargs=2, metavar=("KIND", "TOKENS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        run_once(given.once[0], int(given.once[1]), given.threads)
        return
    torch.set_num_threads(given.threads)
    difference = difference_from_unchunked(FIRST)
    print(f"difference from the unchunked form at {FIRST}: {difference:.1e}")
    text, times = measure(given.longest, given.threads)
    slopes = ", ".join(f"{kind} {slope(found):.2f}" for kind, found in times.items() if len(found) > 1)
    lines = [text, f"Log-log slope from {FIRST:,} on: {slopes}.", f"Difference at {FIRST:,}: {difference:.1e}."]
    print(*lines[1:], sep="\n")
    if given.write:
        header = ["## A million tokens", provenance("torch") + "\n", (__doc__ or "").split("\n\n")[-1]]
        write_section("long sequence", "\n".join([*header, *lines]))
        draw(times)


if __name__ == "__main__":
    main()
