"""Compare three decoders on Shakespeare's plays at equal steps: causal linear, softmax and performer-pytorch.

    python -m benchmarks.shakespeare [--steps 250] [--corpus-dir data] [--output runs]

Characters, 3 layers of width 128 with 4 heads, batches of 8 rows of 256; configs are
`configs/training/shakespeare_*.yml`, with performer-pytorch's PerformerLM as the model of the third. The engine, the
rows, their order and the learning rate schedule are the same. The loss is that of the validation split at the end, in
nats a character.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from model.registry import register_model
from model_factory.yaml_config.strict_model import StrictModel

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "training"
CONTENDERS = ("shakespeare_linear", "shakespeare_softmax", "performer_pytorch")
PERFORMER = ("model={model_type: performer_pytorch, name: performer_pytorch}",)


class PerformerLMConfig(StrictModel):
    """Settings of performer-pytorch's PerformerLM that differ from its defaults."""

    vocab_size: int | None = None
    dim: int = 128
    depth: int = 3
    heads: int = 4
    max_seq_len: int = 256

    def sized(self, vocab_size: int | None, length: int | None) -> "PerformerLMConfig":
        """Return a copy with the tokenizer's vocab_size and the rows' length."""
        return self.model_copy(update={"vocab_size": vocab_size, "max_seq_len": length})


@register_model("performer_pytorch", config=PerformerLMConfig)
def build(config: PerformerLMConfig) -> Any:
    """Build the package's causal language model, with a loss in its output."""
    import torch
    from performer_pytorch import PerformerLM
    from torch import Tensor, nn

    from model_factory.training.tasks.base import next_token_loss

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shape = config.model_dump(exclude={"vocab_size"}) | {"dim_head": config.dim // config.heads}
            self.network = PerformerLM(num_tokens=config.vocab_size, causal=True, emb_dropout=0.1, **shape)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
            return SimpleNamespace(loss=next_token_loss(self.network(input_ids[:, :-1]), input_ids, real))

    return WithLoss()


def run(name: str, args: argparse.Namespace) -> list[str]:
    """Train one contender and return its row of the table."""
    from model_factory.experiment.config import read_experiment
    from model_factory.training.engine import train

    is_performer_pytorch = name == "performer_pytorch"
    overrides = [
        f"global_config.corpus_dir={args.corpus_dir}",
        f"training.max_steps={args.steps}",
        f"training.eval_steps={args.steps}",
        "training.batch_size=8",
    ]
    path = CONFIGS / f"{CONTENDERS[0] if is_performer_pytorch else name}.yml"
    experiment = read_experiment(path, [*overrides, *(PERFORMER if is_performer_pytorch else ())])
    start = time.perf_counter()
    folder = Path(args.output) / f"{name}-{args.steps}"
    train(experiment.config, folder)
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    speed = sorted(line["steps_per_second"] for line in lines if "steps_per_second" in line)
    loss = next(line["eval_loss"] for line in reversed(lines) if "eval_loss" in line)
    return [name, f"{loss:.3f}", f"{1e3 / speed[len(speed) // 2]:.0f}", f"{seconds:.0f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train the contenders one after another and print a table; return the exit code."""
    from benchmarks.report import table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.shakespeare", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps of each (default: %(default)s)")
    parser.add_argument("--corpus-dir", default="data", help="folder of tinyshakespeare/ (default: %(default)s)")
    parser.add_argument("--output", default="runs", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="train only these")
    args = parser.parse_args(argv)
    rows = [run(name, args) for name in args.only]
    print(table(["decoder", "validation loss", "ms a step", "seconds in all"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
