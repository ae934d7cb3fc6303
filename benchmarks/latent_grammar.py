"""Measure latent diffusion on a grammar with checkable sentences: reconstruction, and samples of the diffusion.

    python -m benchmarks.latent_grammar [--seeds 0 1 2] [--kinds bert_gpt2 ...] [--set K=V] [--output runs/grammar] [--write]

A model trains on 4,000 sentences of `benchmarks.grammar`, its autoencoder for 1,000 steps, then its diffusion for
4,000. `exact` is the share of 500 held-out sentences that are reconstructed word for word from the mean of their
latent. The other columns are the share of 1,000 samples that is grammatical, by steps of the ancestral sampler and of
DDIM, beside texts of latents drawn from N(0, I) and from N(0, I) scaled to the latents' mean and standard deviation.
`copies` is the share of samples, of 50 steps, that are in the training set, which has one in forty of all sentences.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.grammar import sentences, share_grammatical
from benchmarks.report import provenance, table, write_section

BASE = Path(__file__).with_name("latent_grammar.yml")
KINDS: dict[str, list[str]] = {
    "bert_gpt2": [],
    "bert_gpt2_draws": ["model.latent.diffused=draw"],
    "performer": [
        "model.encoder={type: performer, d_model: 128, num_layers: 2, num_heads: 4, attention_type: linear, dropout: 0.0}",
        "model.decoder={type: performer, d_model: 128, num_layers: 2, num_heads: 4, attention_type: causal_linear, "
        "dropout: 0.0, routes: [embedding, memory]}",
    ],
}
HELD_OUT, SAMPLES = 500, 1000
HEAD = (
    "model",
    "seed",
    "exact",
    "N(0, I)",
    "N(m, s)",
    "10",
    "50",
    "DDIM 10",
    "DDIM 50",
    "copies",
    "distinct",
)


def write_corpus(folder: Path) -> None:
    """Write 4,000 sentences to train on, and others to evaluate on."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = sentences(4000 + 2 * HELD_OUT, seed=1)
    parts = {"train": drawn[:4000], "validation": drawn[4000:-HELD_OUT], "test": drawn[-HELD_OUT:]}
    for name, lines in parts.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(kind: str, seed: int, output: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Train (or resume) a run and measure it; return a row of the table."""
    from model_factory.experiment.config import read_experiment
    from model_factory.training.engine import train

    corpus, folder = output / "corpus", output / f"{kind}_{seed}"
    write_corpus(corpus)
    folders = [f"global_config.corpus_dir={corpus}", f"global_config.output_dir={output / 'prepared'}"]
    config = read_experiment(BASE, [*KINDS[kind], *overrides, f"training.seed={seed}", *folders]).config
    train(config, folder, resume=folder.exists())
    return [kind, str(seed), *_measure_run(folder, corpus, seed)]


def _measure_run(folder: Path, corpus: Path, seed: int) -> list[str]:
    from model_factory.training.run.folder import load_run

    model, tokenizer, _ = load_run(folder)
    model.eval()
    run = _Run(model, tokenizer)
    test, train = (read(corpus / f"{name}.txt") for name in ("test", "train"))
    rebuilt = run.texts(model.encode(*run.rows(test)))
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(SAMPLES, model.latent_config.latent.size, generator=generator)
    plain = [share_grammatical(run.texts(latents)) for latents in (normal, model.normaliser.invert(normal))]
    drawn = {
        (sampler, steps): run.texts(model.sample_latents(SAMPLES, steps, sampler, generator))
        for sampler in ("ancestral", "ddim")
        for steps in (10, 50)
    }
    fifty = drawn["ancestral", 50]
    shares = [
        sum(map(str.__eq__, rebuilt, test)) / len(test),
        *plain,
        *(share_grammatical(texts) for texts in drawn.values()),
        sum(text in set(train) for text in fifty) / SAMPLES,
        len(set(fifty)) / SAMPLES,
    ]
    return [f"{share:.3f}" for share in shares]


class _Run:
    """Encode texts to rows and decode latents to texts."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def rows(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        from data_manager.rows.collate import pad_rows

        ends = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return pad_rows(
            [[ends[0], *self.tokenizer.encode(text), ends[1]] for text in texts], self.tokenizer.pad_token_id
        )

    def texts(self, latents: torch.Tensor) -> list[str]:
        end = self.tokenizer.eos_token_id
        ends = {"eos_token": end, "pad_token": self.tokenizer.pad_token_id}
        rows = self.model.decode(latents, self.tokenizer.bos_token_id, 20, **ends)[:, 1:].tolist()
        return [self.tokenizer.decode(row[: row.index(end)] if end in row else row) for row in rows]


def read(path: Path) -> list[str]:
    """Read the lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and optionally write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["bert_gpt2"])
    parser.add_argument(
        "--set",
        metavar="K=V",
        action="append",
        default=[],
        dest="overrides",
        help="override a value of latent_grammar.yml",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/grammar"))
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/RESULTS.md")
    args = parser.parse_args(argv)
    rows = [measure(kind, seed, args.output, args.overrides) for kind in args.kinds for seed in args.seeds]
    text = table(HEAD, rows)
    print(text)
    if args.write:
        about = (__doc__ or "").split("\n\n")[-1].strip()
        write_section("latent_grammar", f"## Latent diffusion of a grammar\n\n{provenance('torch')} {about}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
