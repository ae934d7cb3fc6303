"""Compare the lengths of molecules that FlexMDM samples with those of the test rows.

    python -m benchmarks.flexmdm_lengths --corpus data/smiles --output runs/flexmdm_lengths

The folder `--corpus` holds zinc_train.smi and zinc_test.smi. The script trains configs/training/molecules_zinc_flexmdm.yml with `--steps`
steps of 32 rows, or uses the run in `--output` if it is there, and draws `--samples` molecules with each sampler and number of
network calls in `--draw`. A length is the number of tokens without begin and end. The distances are total variation,
and Kolmogorov and Smirnov's largest difference of cumulative shares; the last row, training rows drawn at random,
shows what remains of them for a perfect model.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import provenance, table

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "training" / "molecules_zinc_flexmdm.yml"
HEADER = (
    "lengths of",
    "network calls",
    "samples",
    "mean",
    "standard deviation",
    "total variation",
    "KS",
    "malformed",
    "seconds",
)


def train(corpus: Path, output: Path, steps: int) -> None:
    """Train the packaged config on one CPU core, with smaller batches and fewer steps."""
    from model_factory.experiment.config import read_experiment
    from model_factory.training.engine import train as train_run

    corpus = corpus.resolve()
    changes = {
        "global_config.corpus_dir": corpus.parent,
        "global_config.output_dir": output.parent / "flexmdm_prepared",
        "datasets.0.name": corpus.name,
        "model.backbone.device": "cpu",
        "training.batch_size": 32,
        "training.max_steps": steps,
        "training.warmup_steps": steps // 10,
        "training.eval_steps": steps,
        "training.save_steps": steps,
    }
    train_run(read_experiment(CONFIG, [f"{key}={value}" for key, value in changes.items()]).config, output)


def sampled_lengths(folder: Path, sampler: str, calls: int, count: int, seed: int) -> tuple[list[int], int]:
    """Draw samples; return their lengths in tokens, and how many have a begin or end token inside."""
    import torch

    from model_factory.evaluation.run import open_run
    from model_factory.evaluation.sampling.discrete import draw_tokens

    run = open_run(folder, [f"generation.sampler={sampler}", f"generation.steps={calls}"], device="cpu")
    tokenizer, generator = run.require_tokenizer(), torch.Generator().manual_seed(seed)
    width: int = run.dataset_config.sequence_length
    found, malformed = [], 0
    for lengths in torch.split(torch.full((count,), width), 100):
        for row in draw_tokens(run, lengths, None, None, generator)[0]:
            ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
            found.append(len(row))
            malformed += not ends.isdisjoint(row)
    return found, malformed


def text_lengths(folder: Path, split: str) -> list[int]:
    """Return the lengths in tokens of the texts of a split of the run's data."""
    from data_manager.rows.lengths import row_lengths
    from model_factory.evaluation.run import open_run
    from model_factory.training.splits import load_splits

    splits = load_splits(open_run(folder, [], device="cpu").dataset_config)
    return [int(length) - 2 for length in row_lengths(splits[split])["input_ids"]]


def distances(found: Sequence[int], expected: Sequence[int]) -> tuple[float, float]:
    """Return the total variation, and the largest difference of cumulative shares, of two samples of lengths."""
    counts = [Counter(found), Counter(expected)]
    grid = range(max(max(found), max(expected)) + 1)
    shares = [np.array([count[length] for length in grid]) / sum(count.values()) for count in counts]
    difference = shares[0] - shares[1]
    return float(np.abs(difference).sum() / 2), float(np.abs(difference.cumsum()).max())


def main(argv: Sequence[str] | None = None) -> int:
    """Train, draw, and print a table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flexmdm_lengths",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of zinc_train.smi and zinc_test.smi")
    parser.add_argument("--output", type=Path, default=Path("runs/flexmdm_lengths"), help="folder of the run")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 32 rows (default: 1000)")
    parser.add_argument("--samples", type=int, default=1000, help="samples (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--draw",
        nargs="+",
        default=["thinned_insertion:64", "insertion:64"],
        metavar="SAMPLER:CALLS",
        help="samplers and their numbers of network calls",
    )
    args = parser.parse_args(argv)
    if not (args.output / "model.safetensors").is_file():
        train(args.corpus, args.output, args.steps)
    test, known = text_lengths(args.output, "test"), text_lengths(args.output, "train")
    rows = []

    def add(name: str, calls: str, found: Sequence[int], malformed: Any, seconds: str) -> None:
        numbers = [f"{np.mean(found):.1f}", f"{np.std(found):.1f}", *(f"{one:.3f}" for one in distances(found, test))]
        rows.append([name, calls, f"{len(found):,}", *numbers, str(malformed), seconds])

    for sampler, calls in (choice.split(":") for choice in args.draw):
        start = time.perf_counter()
        found, malformed = sampled_lengths(args.output, sampler, int(calls), args.samples, args.seed)
        add(sampler, calls, found, malformed, f"{time.perf_counter() - start:.0f}")
    drawn = np.random.default_rng(args.seed).choice(known, args.samples)
    add("training rows", "-", drawn.tolist(), "-", "-")
    print(provenance("torch"), table(HEADER, rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
