"""Measure how the time of a diffusion model's training step scales with sequence length.

    python -m benchmarks.denoiser_length [--lengths 1024 2048 4096 8192] [--attention linear softmax] [--repeats 5]

One process, with the lengths interleaved; medians of forward, loss and backward of one row, and their log-log slope: 1
is linear in the length, 2 quadratic.
"""

import argparse
import math
import statistics
import time

import torch

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig

VOCABULARY = 106


def masked_model(attention: str, length: int, d_model: int, num_layers: int) -> DiffusionModel:
    """Build MDLM over a Performer with the given attention."""
    torch.manual_seed(0)
    size = {"d_model": d_model, "num_layers": num_layers, "num_heads": 4, "dropout": 0.0}
    backbone = {"type": "performer", **size, "attention_type": attention, "activation": "SWIGLU", "device": "cpu"}
    section = {"objective": {"type": "mdlm"}, "backbone": backbone, "vocab_size": VOCABULARY, "length": length}
    return DiffusionModel(DiffusionConfig.model_validate(section)).train()


def step_seconds(model: DiffusionModel, length: int, seed: int) -> float:
    """Measure the seconds of one forward pass, loss and backward pass of one row."""
    tokens = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    model(tokens, seed=seed).loss.backward()
    return time.perf_counter() - start


def slope(lengths: list[int], seconds: list[float]) -> float:
    """Return the least-squares slope of log seconds over log length."""
    x, y = [math.log(v) for v in lengths], [math.log(v) for v in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    """Print one row for each kind of attention."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens of a row")
    parser.add_argument("--attention", nargs="+", default=["linear"], help="attention types, linear or softmax")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up round")
    parser.add_argument("--d-model", type=int, default=128, help="width of the network")
    parser.add_argument("--num-layers", type=int, default=2, help="layers of the network")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, CPU, {options.threads} thread(s)\n")
    print("| attention | " + " | ".join(f"{length:,}" for length in options.lengths) + " | slope |")
    print("| --- |" + " ---: |" * (len(options.lengths) + 1))
    for attention in options.attention:
        model = masked_model(attention, max(options.lengths), options.d_model, options.num_layers)
        taken: dict[int, list[float]] = {length: [] for length in options.lengths}
        for seed in range(options.repeats + 1):
            for length in options.lengths:
                taken[length].append(step_seconds(model, length, seed))
        seconds = [statistics.median(times[1:]) for times in taken.values()]
        cells = " | ".join(f"{value:.2f} s" for value in seconds)
        print(f"| {attention} | {cells} | {slope(options.lengths, seconds):.2f} |")


if __name__ == "__main__":
    main()
