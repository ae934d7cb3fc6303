"""Compare how soon networks learn at equal steps: plain, with `local_width`, with `init: neighbours`.

    python -m benchmarks.learning data/wikitext2 [--setup characters] [--variants plain conv5] [--seeds 8] [--steps 400]

A seed gives every variant the same initial weights, rows, times and noise, so differences are paired. The folder has
`valid.txt`, on which networks train, and `test.txt` (`molecules`: ZINC's `zinc_train.smi` and `zinc_test.smi`). The loss is
the objective's own, unweighted; AdamW, the learning rate constant after 50 steps, gradients clipped at norm 1, no EMA.

The figure is the bound of the same 1,024 test rows in nats a token, with the same noise for all networks. For mdlm it
is computed from numbers of masks k of a row of n tokens, drawn in strata over the rows with probability q(k)
proportional to k^-1/2 and weighted by 1 / (k q(k)); for others from the objective at drawn times, four times a row.
Runs are kept in `--output`, a line of JSON each, and are not repeated. Every setup is in SETUPS.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.report import provenance, table
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "conv5": {"local_width": 5},
    "conv5 in 8 groups": {"local_width": 5, "local_groups": 8},
    "neighbours": {"init": "neighbours"},
}
WARMUP, EVALUATED, DRAWS = 50, 1024, 4


@dataclass(frozen=True)
class Setup:
    """Training of one network; the defaults are the characters of WikiText-2 with a small `ddit` and mdlm."""

    objective: str = "mdlm"
    process: str = "absorbing"
    backbone: str = "ddit"
    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 64
    batch: int = 16
    tokenizer: str = "{type: characters}"
    source: str = "text"
    learning_rate: float = 2e-3


SETUPS = {
    "characters": Setup(),
    "udlm": Setup(objective="udlm", process="uniform"),
    "sedd": Setup(objective="sedd"),
    "subwords": Setup(tokenizer="{type: bpe, vocab_size: 1000}"),
    "long": Setup(length=256, batch=4),
    "large": Setup(width=128, layers=4, heads=4),
    "performer": Setup(backbone="performer"),
    "bert": Setup(backbone="bert"),
    "molecules": Setup(source="smiles", tokenizer="{type: smiles}", length=112),
}


@dataclass(frozen=True)
class Rows:
    """Tokens int64 [R, L] and the mask of real ones, bool [R, L]."""

    tokens: Tensor
    real: Tensor

    def __getitem__(self, rows: Tensor) -> "Rows":
        """Return chosen rows, cut after the last real token of any."""
        real = self.real[rows]
        used = int(real.any(0).nonzero().max()) + 1
        return Rows(self.tokens[rows, :used], real[:, :used])


def load_rows(folder: Path, setup: Setup) -> tuple[Rows, Rows, int]:
    """Return training rows, test rows and the size of the vocabulary."""
    from data_manager.data_manager import DatasetManager
    from data_manager.parse_data_args import parse_dataset_configs

    names = ("valid.txt", "test.txt") if setup.source == "text" else ("zinc_train.smi", "zinc_test.smi")
    entry = {
        "name": "rows",
        "source": setup.source,
        "data_files": dict(zip(("train", "test"), (str(folder.resolve() / name) for name in names), strict=True)),
        "tokenizer": yaml.safe_load(setup.tokenizer),
        "sequence_length": setup.length,
    }
    with tempfile.TemporaryDirectory() as output:
        path = Path(output) / "data.yml"
        shared = {"corpus_dir": str(folder), "output_dir": output}
        path.write_text(yaml.safe_dump({"global_config": shared, "datasets": [entry]}), encoding="utf-8")
        (config,) = parse_dataset_configs(str(path))
        splits: Any = DatasetManager.load_dataset(config)
        tokenizer = DatasetManager.tokenizer(config)
        assert tokenizer is not None
        found = [_as_rows(splits[name]["input_ids"], whole=setup.source == "text") for name in ("train", "test")]
        return found[0], found[1], tokenizer.vocab_size


def _as_rows(given: Any, *, whole: bool) -> Rows:
    """Pad rows to the longest; if all should be of one length, drop shorter ones."""
    rows = [torch.as_tensor(row) for row in given]
    longest = max(len(row) for row in rows)
    rows = [row for row in rows if not whole or len(row) == longest]
    real = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return Rows(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), real)


def build(setup: Setup, variant: str, vocab_size: int) -> DiffusionModel:
    """Build the untrained network of a variant."""
    keys = {"ddit": {"d_model": setup.width, "cond_dim": 64}, "performer": {"d_model": setup.width}}
    backbone = {"type": setup.backbone, "num_layers": setup.layers, "num_heads": setup.heads, "dropout": 0.0}
    backbone |= keys.get(setup.backbone, {"hidden_size": setup.width}) | {"device": "cpu"}
    section = {
        "process": {"type": setup.process},
        "objective": {"type": setup.objective},
        "backbone": backbone | VARIANTS[variant],
        "vocab_size": vocab_size,
        "length": setup.length,
    }
    return DiffusionModel(DiffusionConfig.model_validate(section))


def train(setup: Setup, variant: str, seed: int, steps: int, data: tuple[Rows, Rows, int]) -> dict[str, Any]:
    """Train one network; return its bound at half of the steps and at the end, in nats a token."""
    rows, test, vocab_size = data
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = build(setup, variant, vocab_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=setup.learning_rate)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / WARMUP))
    order = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = {"variant": variant, "seed": seed, "steps": steps, "setup": asdict(setup)}
    for step in range(1, steps + 1):
        batch = rows[torch.randint(len(rows.tokens), (setup.batch,), generator=order)]
        mask = None if batch.real.all() else batch.real
        loss = model.train()(batch.tokens, mask, seed=seed * 1_000_003 + 2 * step).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        warmup.step()
        if step == steps // 2 or step == steps:
            found["half" if step < steps else "end"] = evaluate(model.eval(), test)
    return found | {"seconds": time.perf_counter() - start}


@torch.no_grad()
def evaluate(model: DiffusionModel, test: Rows) -> float:
    """Return the bound of test rows at equal distances, in nats a token."""
    chosen = torch.arange(0, len(test.tokens), max(1, len(test.tokens) // EVALUATED))[:EVALUATED]
    parts = [test[rows] for rows in chosen.split(64)]
    counted = sum(int(part.real.sum()) for part in parts)
    if model.diffusion_config.objective.type == "mdlm":
        return sum(_counted_nats(model, part, 64 * index, len(chosen)) for index, part in enumerate(parts)) / counted
    total = 0.0
    for draw in range(DRAWS):
        for index, part in enumerate(parts):
            indices = 64 * index + torch.arange(len(part.tokens))
            output = model(part.tokens, part.real, rows=indices, batch_size=len(chosen), seed=1234 + 2 * draw)
            total += float(output.loss) * int(part.real.sum()) / DRAWS
    return total / counted


def _counted_nats(model: DiffusionModel, part: Rows, first: int, total: int) -> float:
    """Return the sum over rows of an unbiased estimate of mdlm's bound, with k masks in each row."""
    noise = torch.Generator().manual_seed(first + 99)
    strata = torch.randperm(total, generator=torch.Generator().manual_seed(98))[first : first + len(part.tokens)]
    at = (strata + torch.rand(len(strata), generator=noise)) / total
    lengths = part.real.sum(1)
    counts = torch.arange(1, part.tokens.shape[1] + 1)
    law = counts**-0.5 * (counts <= lengths[:, None])
    law = law / law.sum(1, keepdim=True)
    k = 1 + (law.cumsum(1) < at[:, None]).sum(1).clamp(max=lengths - 1)
    scores = torch.rand(part.tokens.shape, generator=noise).masked_fill(~part.real, 2.0)
    masked = scores.argsort(1).argsort(1) < k[:, None]
    noisy = part.tokens.masked_fill(masked, model.num_tokens)
    logits = model.denoise(noisy, None, None if part.real.all() else part.real)[..., : model.num_tokens]
    nats = cross_entropy(logits.transpose(1, 2), part.tokens, reduction="none").masked_fill(~masked, 0.0).sum(1)
    weight = 1 / (k * law.gather(1, k[:, None] - 1)[:, 0])  # (1 / n) (n / k) / q(k)
    return float((nats * weight).sum())


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every variant and seed that `--output` has not got, and return all runs of the setup."""
    setup = SETUPS[args.setup]
    wanted = [(variant, seed) for seed in range(args.seeds) for variant in args.variants]
    known = list(_read(args.output, setup, args.steps))
    missing = [pair for pair in wanted if pair not in {(run["variant"], run["seed"]) for run in known}]
    data = load_rows(args.folder, setup) if missing else None
    for variant, seed in missing:
        assert data is not None
        run = train(setup, variant, seed, args.steps, data)
        print(f"{variant}, seed {seed}: {run['half']:.3f}, {run['end']:.3f} ({run['seconds']:.0f} s)", file=sys.stderr)
        if args.output:
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
        known.append(run)
    return [run for run in known if (run["variant"], run["seed"]) in wanted]


def _read(path: Path | None, setup: Setup, steps: int) -> Iterator[dict[str, Any]]:
    if path is not None and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            if run["setup"] == asdict(setup) and run["steps"] == steps:
                yield run


def paired(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard error and two-sided p of paired differences (Student's t)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    values = torch.tensor(differences, dtype=torch.float64)
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    return mean, error, float(2 * t.sf(abs(mean) / error, len(values) - 1)) if error else 1.0


def summarise(runs: Sequence[dict[str, Any]], variants: Sequence[str]) -> str:
    """Format means and paired differences from the first variant as Markdown."""
    bounds = {name: {run["seed"]: run for run in runs if run["variant"] == name} for name in variants}
    lines = []
    for name, own in bounds.items():
        half, end = (torch.tensor([run[at] for run in own.values()]) for at in ("half", "end"))
        spread = f"{end.std():.3f}" if len(end) > 1 else "-"
        cells = [name, f"{half.mean():.3f}", f"{half.max():.3f}", f"{end.mean():.3f}", spread, f"{end.max():.3f}"]
        first = bounds[variants[0]]
        pairs = [own[seed]["end"] - first[seed]["end"] for seed in own if seed in first and name != variants[0]]
        if len(pairs) > 1:
            mean, error, p = paired(pairs)
            cells.append(f"{mean:+.3f} (se {error:.3f}; {len(pairs)} pairs; p {p:.1g})")
        seconds = sorted(run["seconds"] for run in own.values())
        lines.append([*cells, *["-"] * (7 - len(cells)), f"{seconds[len(seconds) // 2]:.0f}"])
    header = ["network", "half, mean", "worst", "end, mean", "sd", "worst", f"minus {variants[0]}", "seconds a run"]
    return table(header, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing and print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of valid.txt and test.txt, or of ZINC")
    parser.add_argument("--setup", choices=SETUPS, default="characters", help="what is trained (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "conv5"], help="networks")
    parser.add_argument("--seeds", type=int, default=8, help="paired seeds, from 0 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps, 2 or more (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file of finished runs, which is read and added to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = run_all(args)
    print(f"{provenance('torch')}\n\n{summarise(runs, args.variants)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
