"""The main job on a corpus that every Python carries: file, model, data, one batch forward and backward."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiment.config import ExperimentConfig, read_experiment
from yaml_config.errors import ConfigError

CONFIG = os.path.relpath(Path(__file__).resolve().parent.parent / "configs" / "full_experiment.yml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job on a file and print what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--config", metavar="F", default=CONFIG, help="the experiment (default: %(default)s)")
    parser.add_argument("--set", metavar="K=V", action="append", default=[], dest="overrides", help="lay a value on it")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        experiment = read_experiment(args.config, args.overrides).config
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 3 if error.is_unreadable else 1
    print(f"{args.config}: good ({time.perf_counter() - start:.2f} s)")
    try:
        run(experiment)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{args.config}: {error}", file=sys.stderr)
        return 4
    return 0


def run(experiment: ExperimentConfig) -> None:
    """Build the model, load the data, push one batch through, print the tables."""
    import torch

    from data_manager.data_manager import DatasetManager
    from experiment.vocabulary import with_vocabulary
    from model.model_factory import create_model

    if experiment.model is None or not experiment.datasets:
        raise ValueError("the demo needs a file with a model and a data set")
    splits = DatasetManager.load_datasets(datasets=experiment.datasets)
    experiment = with_vocabulary(experiment)
    assert experiment.model is not None
    assert experiment.datasets
    torch.manual_seed(experiment.training.seed if experiment.training else 0)
    model = create_model(experiment.model)
    _print_table("part of the model", "parameters", _parts(model))
    rows = [(f"{name} / {split}", f"{len(data):,}") for name, parts in splits.items() for split, data in parts.items()]
    _print_table("split of the data", "rows", rows)
    entry = experiment.datasets[0]
    split = next(iter(splits[entry.name]))
    loader = DatasetManager.create_dataloader(
        splits[entry.name][split],
        entry,
        batch_size=experiment.training.batch_size if experiment.training else 8,
        shuffle=True,
    )
    batch = next(iter(loader))
    _print_table("one batch", "shape", [(name, _shape(value)) for name, value in batch.items()])
    start = time.perf_counter()
    loss, meaning = one_step(model, batch)
    gradient = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    print(f"\nloss {loss:.4f} ({meaning}), gradient norm {gradient:.4f}, {time.perf_counter() - start:.2f} s")


def one_step(model: Any, batch: dict[str, Any]) -> tuple[float, str]:
    """Forward and backward over one batch; the loss as a number, and what it means.

    Language models and translators: cross-entropy of the next token in nats, over real tokens. Encoders of features
    have no target in this file: the mean square of their output stands in, to show that gradients flow.
    """
    import torch.nn.functional as F

    device = next(model.parameters()).device
    moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
    if "features" in moved:
        mask = moved["feature_mask"]
        loss = model(moved["features"], mask=mask)[mask].square().mean()
        meaning = "mean square of the encoding"
    else:
        if "source_ids" in moved:
            target, mask = moved["target_ids"], moved["target_mask"]
            logits = model(moved["source_ids"], target[:, :-1], moved["source_mask"], mask[:, :-1])
        else:
            target, mask = moved["input_ids"], moved["attention_mask"]
            logits = model(target[:, :-1], mask=mask[:, :-1])
        real = mask[:, 1:]
        loss = F.cross_entropy(logits[real].float(), target[:, 1:][real])
        meaning = "nats a token; a uniform guess has " + f"{float(logits.new_tensor(logits.shape[-1]).log()):.4f}"
    loss.backward()
    return loss.item(), meaning


def _parts(model: Any) -> list[tuple[str, str]]:
    rows = [(name, sum(p.numel() for p in child.parameters())) for name, child in model.named_children()]
    rows = [(name, count) for name, count in rows if count]
    rows.append(("total", sum(p.numel() for p in model.parameters())))
    return [(name, f"{count:,}") for name, count in rows]


def _shape(value: Any) -> str:
    return (
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if hasattr(value, "shape")
        else f"{len(value)} items"
    )


def _print_table(left: str, right: str, rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(left), *(len(name) for name, _ in rows))
    height = max(len(right), *(len(text) for _, text in rows))
    print(f"\n{left:<{width}}  {right:>{height}}\n{'-' * (width + height + 2)}")
    for name, text in rows:
        print(f"{name:<{width}}  {text:>{height}}")


if __name__ == "__main__":
    sys.exit(main())
