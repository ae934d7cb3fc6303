"""Compare diffusion models and an autoregressive decoder of equal size on one text, at equal steps and seeds.

    python -m benchmarks.diffusion --corpus data/wikitext2 [--steps 1000] [--seeds 0] [--output runs/comparison]

The text is normalised like text8, to the letters a to z and spaces, from a training and a test file of the folder (for
WikiText-2 `valid.txt` and `test.txt`). All models train with the same engine from `benchmarks/diffusion.yml`: 3 layers
of width 128, batches of 32 rows of 128 characters, the same rows in the same order, the same learning rate schedule.
Bits a character are of the test split, with the parts of the bound; entropies are of the characters of samples, in
nats, beside those of the test split; calls and seconds are of one sample, drawn with 31 others. The decoder's first
character of a row is counted at its frequency; it has no adaLN, whose weights the others have in addition. All
objectives use time conditioning as published, so all but mdlm and bd3lm; `mdlm_told` is mdlm with time conditioning.
Training optimises each bound, except in `gidd`, whose authors weight times more evenly; `gidd_bound` optimises its
bound. `--write` writes the table to benchmarks/RESULTS.md and the curves to docs/.
"""

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import provenance, table, write_section

BASE = Path(__file__).with_name("diffusion.yml")
PAPER = {"ar": 1.23, "sedd_absorbing": 1.39, "mdlm": 1.40, "udlm": 1.44, "d3pm": 1.45, "sedd_uniform": 1.47}
"""Bits a character on text8, as reported in papers (Lou et al. 2024, Sahoo et al. 2024, Schiff 2024)."""
DIFFUSION: dict[str, list[str]] = {
    "mdlm": ["model.objective={type: mdlm}"],
    "mdlm_told": ["model.objective={type: mdlm}", "model.time_conditioning=true"],
    "sedd_absorbing": ["model.objective={type: sedd}"],
    "sedd_uniform": [
        "model.objective={type: sedd}",
        "model.process={type: uniform}",
        "model.schedule={type: geometric}",
    ],
    "udlm": ["model.objective={type: udlm}", "model.process={type: uniform}"],
    "d3pm": ["model.objective={type: d3pm}", "model.schedule={type: discrete, num_steps: 1000}"],
    "gidd": [
        "model.objective={type: gidd}",
        "model.process={type: hybrid, p_uniform: 0.1}",
        "training.loss_weighting=uniform",
    ],
    "gidd_bound": ["model.objective={type: gidd}", "model.process={type: hybrid, p_uniform: 0.1}"],
    "bd3lm_16": ["model.objective={type: bd3lm, block_size: 16}"],
}
DECODER = (
    "model={model_type: decoder, name: ar, decoder: {d_model: 128, num_layers: 3, num_heads: 4, d_ff: 4, dropout: 0.0, "
    "attention_type: softmax}}"
)
CONTENDERS = ("ar", *DIFFUSION)
PLOT = Path(__file__).resolve().parent.parent / "docs" / "diffusion_family.png"


def normalise_text(text: str) -> str:
    """Normalise text like text8: lower-case letters and single spaces; other characters become spaces."""
    return re.sub(r"[^a-z]+", " ", text.lower().replace("<unk>", " ")).strip()


def make_corpus(source: Path, folder: Path) -> None:
    """Write `train.txt` and `test.txt` to `folder`; raise FileNotFoundError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: source / f"{name}.txt" for name in ("train", "valid", "test")}
    train = found["train"] if found["train"].is_file() else found["valid"]
    for name, path in (("train", train), ("test", found["test"])):
        (folder / f"{name}.txt").write_text(normalise_text(path.read_text(encoding="utf-8")), encoding="utf-8")


def overrides(name: str, seed: int, args: argparse.Namespace) -> list[str]:
    """Return the contender's config overrides."""
    parts = [DECODER] if name == "ar" else list(DIFFUSION[name])
    folders = [f"global_config.{key}={Path(args.output).resolve() / key}" for key in ("corpus_dir", "output_dir")]
    if name == "ar":
        parts += ["generation={num_samples: 32, max_new_tokens: 128}"]
    return [*parts, *folders, f"training.max_steps={args.steps}", f"training.seed={seed}"]


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one contender, or load its earlier figures; return them."""
    from model_factory.evaluation.run import open_run
    from model_factory.experiment.config import read_experiment
    from model_factory.training.engine import train

    folder = Path(args.output) / f"{name}-{args.steps}-{seed}"
    result = folder / "comparison.json"
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    start = time.perf_counter()
    train(read_experiment(BASE, overrides(name, seed, args)).config, folder)
    figures = {"name": name, "seed": seed, "minutes": (time.perf_counter() - start) / 60}
    opened = open_run(folder, [])
    figures |= measure(opened, args.rows, seed) | {"parameters": sum(p.numel() for p in opened.model.parameters())}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    nats = [
        (line["step"], line.get("eval_bound", line.get("eval_loss"))) for line in lines
    ]  # a training loss may have other weights than the bound
    figures["curve"] = [(step, value / math.log(2)) for step, value in nats if value is not None]
    result.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def measure(opened: Any, rows: int, seed: int) -> dict[str, Any]:
    """Measure bits a character with their interval and parts; entropy, calls and seconds of samples."""
    from model_factory.evaluation.metrics.texts import entropy_figure
    from model_factory.evaluation.rows import load_split
    from model_factory.evaluation.sampling.draw import draw
    from model_factory.evaluation.sampling.sample import Request
    from model_factory.evaluation.settings import Settings
    from model_factory.experiment.metric_registry import metrics_of

    split = load_split(opened, "test", max_rows=rows, seed=seed)
    report = metrics_of(opened.task_name)(opened, split, Settings(seed=seed, draws=2, samples=False))
    bits = next(figure for figure in report.figures if figure.name == "bits_per_character")
    found = {"bits": bits.value, "low": bits.low, "high": bits.high}
    parts = ("diffusion_part", "prior_part", "reconstruction_part")
    found |= {figure.name: figure.value for figure in report.figures if figure.name in parts}
    ids = [row for batch in split.batches("rows") for row in batch["input_ids"].tolist()]
    if opened.task_name == "language_modelling":
        found |= include_first_character(found, [row[0] for row in ids], len(ids[0]))
    start = time.perf_counter()
    samples = draw(opened, Request(seed=seed)).samples
    found["seconds"] = (time.perf_counter() - start) / len(samples)
    calls = [sample.network_calls for sample in samples if sample.network_calls is not None]
    found["calls"] = sum(calls) / len(calls) if calls else float(opened.generation.max_new_tokens)
    found["entropy"] = entropy_figure([sample.tokens for sample in samples], seed).value
    found["text_entropy"] = entropy_figure(ids, seed).value
    return found


def include_first_character(found: dict[str, Any], first: list[int], length: int) -> dict[str, Any]:
    """Return bits over all characters of a row, with the first at its frequency at beginnings of rows."""
    counts = Counter(first)
    cost = -sum(count * math.log2(count / len(first)) for count in counts.values()) / len(first)
    return {key: (found[key] * (length - 1) + cost) / length for key in ("bits", "low", "high")}


def format_table(results: list[dict[str, Any]]) -> str:
    """Format a table with one line a contender, the mean over its seeds."""
    lines = []
    for name in dict.fromkeys(result["name"] for result in results):
        mine = [result for result in results if result["name"] == name]

        def mean(key: str, mine: list[dict[str, Any]] = mine) -> float:
            return sum(one.get(key, 0.0) for one in mine) / len(mine)

        parts = " + ".join(f"{mean(f'{part}_part'):.3f}" for part in ("diffusion", "prior", "reconstruction"))
        lines.append(
            [
                name,
                f"{mean('bits'):.3f}",
                f"{mean('low'):.3f} to {mean('high'):.3f}",
                parts if "diffusion_part" in mine[0] else "-",
                f"{PAPER[name]:.2f}" if name in PAPER else "-",
                f"{mean('entropy'):.2f} ({mean('text_entropy'):.2f})",
                f"{mean('calls'):.0f}",
                f"{mean('seconds'):.2f}",
                f"{mean('minutes'):.1f}",
                f"{mean('parameters') / 1e6:.2f}",
            ]
        )
    head = ["model", "bits a character", "95 % interval", "diffusion + prior + reconstruction", "on text8, papers"]
    head += ["entropy of samples (of text)", "calls a sample", "s a sample", "minutes", "million parameters"]
    return table(head, lines)


def draw_curves(results: list[dict[str, Any]], path: Path) -> None:
    """Plot bits a character of the first test rows over the steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5))
    for index, name in enumerate(dict.fromkeys(result["name"] for result in results)):
        for result in (one for one in results if one["name"] == name):
            label = name if result["seed"] == min(one["seed"] for one in results) else None
            axis.plot(*zip(*result["curve"], strict=True), color=f"C{index}", label=label, linewidth=1.2)
    axis.set_xlabel("steps")
    axis.set_ylabel("bits a character (bound)")
    axis.set_ylim(top=4.6)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Train the contenders one after another and print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.diffusion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train.txt or valid.txt, and test.txt")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of each (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training each (default: 0)")
    parser.add_argument("--rows", type=int, default=512, help="number of test rows (default: %(default)s)")
    parser.add_argument("--output", default="runs/comparison", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="train only these")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and docs/diffusion_family.png")
    args = parser.parse_args(argv)
    make_corpus(args.corpus, Path(args.output) / "corpus_dir")
    results = [run(name, seed, args) for seed in args.seeds for name in args.only]
    print(format_table(results))
    if args.write:
        draw_curves(results, PLOT)
        head = "## The diffusion family and a decoder, side by side"
        curves = f"![Bits a character over the steps](../docs/{PLOT.name})"
        write_section("diffusion family", "\n\n".join([head, provenance("torch"), format_table(results), curves]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
