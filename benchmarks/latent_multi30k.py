"""Measure latent diffusion of English Multi30k: reconstruction, and distance of samples from test sentences.

    python -m benchmarks.latent_multi30k --corpus data [--seeds 0 1 2] [--output runs/multi30k_latent] [--write]

Trains `configs/latent/bert_gpt2.yml` and evaluates each run like `evaluate.py --split test --num-samples 1000`; the
corpora are in CORPUS/multi30k. Reconstruction is greedy, from the mean latents of the 1,000 test sentences. Figures of
1,000 samples: self-BLEU (low is diverse), copies (share in the training set), the Jensen-Shannon divergence of word
unigrams and bigrams from the test sentences, beside that of as many training sentences, and the Frechet distance of
latents from the test sentences, beside that of training sentences and of latents of N(m, s).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import provenance, table, write_section

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "latent" / "bert_gpt2.yml"
SAMPLES = 1000
SHOWN = 8


def measure(seed: int, corpus: Path, output: Path) -> tuple[dict[str, Any], list[str]]:
    """Train one run; return its figures by name, and examples."""
    from model_factory.evaluation.rows import load_split
    from model_factory.evaluation.run import open_run
    from model_factory.evaluation.settings import Settings
    from model_factory.experiment.config import read_experiment
    from model_factory.experiment.metric_registry import metrics_of
    from model_factory.training.engine import train

    folder = output / f"seed_{seed}"
    folders = [f"global_config.corpus_dir={corpus}", f"global_config.output_dir={output / 'prepared'}"]
    train(read_experiment(CONFIG, [*folders, f"training.seed={seed}"]).config, folder, resume=folder.exists())
    run = open_run(folder, [f"generation.num_samples={SAMPLES}"])
    report = metrics_of(run.task_name)(run, load_split(run, "test", max_rows=None, seed=seed), Settings(seed))
    return {figure.name: figure for figure in report.figures}, report.examples[:SHOWN]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and optionally write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/multi30k_latent"))
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/RESULTS.md")
    args = parser.parse_args(argv)
    found = {seed: measure(seed, args.corpus, args.output) for seed in args.seeds}
    names = list(next(iter(found.values()))[0])
    rows = [[name, *(f"{figures[name].value:.4g}" for figures, _ in found.values())] for name in names]
    text = table(("figure", *(f"seed {seed}" for seed in found)), rows)
    shown = "\n\n".join(next(iter(found.values()))[1])
    text = f"{text}\n\n```text\n{shown}\n```"
    print(text)
    if args.write:
        about = (__doc__ or "").split("\n\n")[-1].strip()
        made = provenance("torch", "transformers")
        write_section("latent_multi30k", f"## Latent diffusion of Multi30k\n\n{made} {about}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
