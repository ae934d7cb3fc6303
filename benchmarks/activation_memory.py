"""Measure the peak memory and time of a training step with each kind of activation checkpointing, in subprocesses."""

import argparse
import os
import subprocess
import sys
import time
from typing import Any, get_args

from model.activation_checkpointing import Checkpointing

RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
"""Settings with which the C library gives freed memory back at once, so that the peak is that of live tensors."""
SIZES: dict[str, Any] = {"d_model": 256, "num_layers": 6, "num_heads": 4, "dropout": 0.1, "device": "cpu"}
BERT = {"hidden_size": 256, "num_layers": 6, "num_heads": 4, "dropout": 0.1, "device": "cpu"}
BACKBONES: dict[str, dict[str, Any]] = {
    "ddit": {"type": "ddit", **SIZES},
    "performer": {"type": "performer", "attention_type": "linear", **SIZES},
    "bert": {"type": "bert", "time_injection": "adaln", **BERT},
}
VOCAB, ROWS, LENGTH = 64, 8, 512


def measure(backbone: str, kind: Checkpointing) -> tuple[int, float]:
    """Return the bytes by which the resident set rises in a training step of mdlm, and the step's CPU seconds."""
    import torch

    from benchmarks.peak_memory import peak_rise
    from model.activation_checkpointing import checkpoint_activations
    from model.discrete.model import DiffusionModel
    from model.discrete.types import DiffusionConfig

    given = {"objective": {"type": "mdlm"}, "backbone": BACKBONES[backbone], "vocab_size": VOCAB, "length": LENGTH}
    model = DiffusionModel(DiffusionConfig.model_validate(given)).train()
    checkpoint_activations(model, kind)

    def step(rows: int, length: int) -> None:
        model(torch.randint(VOCAB, (rows, length)), seed=1).loss.backward()

    step(1, 8)  # loads libraries and makes the gradients
    start = time.process_time()
    return peak_rise(lambda: step(ROWS, LENGTH)), time.process_time() - start


def main() -> None:
    """Print a table over backbones and kinds, or with both given the bytes and seconds of one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--kind", choices=get_args(Checkpointing))
    given = parser.parse_args()
    if given.kind is not None:
        print(*measure(given.backbones[0], given.kind))
        return
    print("| backbone | kind | peak | share | time | share |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for backbone in given.backbones:
        base: tuple[float, float] | None = None
        for kind in get_args(Checkpointing):
            command = [sys.executable, "-m", "benchmarks.activation_memory", "--backbones", backbone, "--kind", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **RETURNING})
            peak, seconds = map(float, done.stdout.split()[-2:])
            base = base or (peak, seconds)
            shares = f"{peak / 1e6:.0f} MB | {peak / base[0]:.2f} | {seconds:.2f} s | {seconds / base[1]:.2f}"
            print(f"| {backbone} | {kind} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
