"""The files in `configs/diffusion/`, made tiny by `--set`, overfit a small corpus and draw text from it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from data_manager.data_manager import DatasetManager
from model.discrete.model import DiffusionModel
from model.model_factory import create_model
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.experiment.summary import summarise_model

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "diffusion").glob("*.yml"))
LINES = "moss on a wall.\nrain over hills\na heron at dusk\nwind in the rye\n"
LENGTH = 16  # of each line, so that the rows are the lines
# Steps, and the highest allowed loss in nats per token; comments give measured losses. The unigram entropy is 2.77;
# uniform noise is learnt more slowly.
OVERFIT = {
    "bd3lm": (300, 1.2),  # 0.13 to 0.17 over three
    "bert_mdlm": (200, 1.2),  # 0.18 to 0.19 over four
    "d3pm": (400, 1.2),  # 0.46 to 0.55 over three
    "gidd": (400, 2.2),  # 0.84 to 1.39 over three
    "mdlm": (400, 1.2),  # 0.39 to 0.49 over five seeds
    "mdlm_linear": (200, 1.2),  # 0.30 to 0.35 over five
    "sedd_absorbing": (400, 1.2),  # 0.53 to 0.78 over five
    "sedd_uniform": (600, 2.2),  # 1.71 and 1.78
    "udlm": (400, 2.0),  # 0.86
}


def tiny(file: Path, folder: Path) -> ExperimentConfig:
    """Return the file's experiment over LINES, with a small network."""
    (folder / "corpus.txt").write_text(LINES * 12, encoding="utf-8")
    overrides = [
        "datasets.0.source=text",
        f"datasets.0.data_files={{train: {folder / 'corpus.txt'}}}",
        f"datasets.0.sequence_length={LENGTH}",
        f"model.backbone.{'hidden_size' if file.stem == 'bert_mdlm' else 'd_model'}=48",
        "model.backbone.num_layers=2",
        *([] if file.stem in ("bert_mdlm", "mdlm_linear") else ["model.backbone.cond_dim=32"]),
        *(["model.objective.block_size=4"] if file.stem == "bd3lm" else []),  # several blocks a row
        "model.backbone.device=cpu",
        "generation.num_samples=4",
        "generation.steps=64",
    ]
    return with_vocabulary(read_experiment(file, overrides).config)


def train(model: DiffusionModel, rows: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (16,), generator=generator)]
        optimizer.zero_grad()
        model(batch, seed=step).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def bound(model: DiffusionModel, rows: torch.Tensor) -> float:
    """Return the full bound of some rows in nats per token, averaged over draws of the noise."""
    model.eval()
    return sum(float(model(rows[:64], seed=seed).loss) for seed in range(8)) / 8


def entropy(tokens: torch.Tensor) -> float:
    """Return the unigram entropy in nats: the loss of a network that learnt no order."""
    counts = torch.tensor(list(Counter(tokens.flatten().tolist()).values()), dtype=torch.float64)
    shares = counts / counts.sum()
    return float(-(shares * shares.log()).sum())


def test_every_published_model_has_a_config() -> None:
    assert [file.stem for file in FILES] == list(OVERFIT)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_overfits_and_samples(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tiny(file, tmp_path)
    assert experiment.model is not None
    assert experiment.datasets is not None
    assert experiment.generation is not None
    (entry,) = experiment.datasets
    split = DatasetManager.load_datasets([entry])[entry.name]["train"]
    loader = DatasetManager.create_dataloader(split, entry, batch_size=64)
    batch = next(iter(loader))
    rows = batch["input_ids"][batch["attention_mask"].all(1)]
    torch.manual_seed(0)
    model: Any = create_model(experiment.model)
    steps, most = OVERFIT[file.stem]
    train(model, rows, steps)

    reached, unigram = bound(model, rows), entropy(rows)
    assert reached < most < unigram
    settings = experiment.generation
    tokens = model.sample(
        settings.num_samples,
        steps=settings.steps,
        sampler=settings.sampler,
        generator=torch.Generator().manual_seed(0),
    )
    tokenizer = DatasetManager.tokenizer(entry)
    assert tokenizer is not None
    texts = [tokenizer.decode(row) for row in tokens.tolist()]
    with capsys.disabled():
        print(f"\n{file.stem}: {reached:.2f} nats of {unigram:.2f};", *map(repr, texts))
    assert all(texts)
    assert set("".join(texts)) <= set(LINES)


@pytest.mark.parametrize("name", ["mdlm", "mdlm_linear"])
def test_summary_counts_flops_by_part(name: str, tmp_path: Path) -> None:
    file = next(file for file in FILES if file.stem == name)
    summary = summarise_model(tiny(file, tmp_path))
    counted = {part.name.rpartition(".")[2]: part.forward_flops for part in summary.parts}
    attention = counted.get("attention", counted.get("self_attention", 0))
    assert min(attention, counted["feed_forward"]) > 0.2 * summary.total.forward_flops
    assert sum(counted.values()) == summary.total.forward_flops
