"""Run folders of untrained models: weights, tokenizer and resolved config, as the engine writes them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from data_manager.data_manager import DatasetManager
from model_factory.evaluation.rows import Split, load_split
from model_factory.evaluation.run import LoadedRun, open_run
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import add_default_sections
from model_factory.training.network import build_network
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.weights import WEIGHTS, named_weights, write_weights
from model_factory.yaml_config.dump import dump

TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind at all.\n"
STACK = {"d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1, "device": "cpu"}
DECODER = {"model_type": "decoder", "name": "tiny", "decoder": STACK}
PAIR = {"model_type": "encoder_decoder", "name": "pair", "encoder": STACK, "decoder": STACK}
BACKBONE = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
MDLM = {"model_type": "diffusion", "name": "mdlm", "objective": {"type": "mdlm"}, "backbone": BACKBONE}

READER = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
LATENT = {
    "model_type": "latent_diffusion",
    "name": "latent",
    "encoder": {**READER, "max_length": 100},
    "decoder": {**READER, "max_length": 100},
    "latent": {"size": 4},
    "denoiser": {"type": "linear"},
    "diffusion": {"num_steps": 12},
    "device": "cpu",
}


def text_data(folder: Path, **more) -> list:
    """Write a data set of two text files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("".join(f"{number} {TEXT}" for number in range(12)))
    (folder / "test.txt").write_text("".join(f"{number} {TEXT}" for number in range(5)))
    files = {split: str(folder / f"{split}.txt") for split in ("train", "test")}
    return [{"name": "tiny", "source": "text", "data_files": files, "sequence_length": 24, **more}]


def pair_data(folder: Path, **more) -> list:
    """Write sentence pairs of words and the same words backwards."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(TEXT.split()[: 2 + number % 5]) for number in range(12)]
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    (folder / "b.txt").write_text("\n".join(line[::-1] for line in lines) + "\n")
    pair = {"source": str(folder / "a.txt"), "target": str(folder / "b.txt")}
    return [{"name": "pairs", "source": "text", "data_files": {"train": pair, "test": pair}, **more}]


def make_run(folder: Path, model: dict, datasets: list, task: str, **training) -> Path:
    """Write the run folder `folder`/run of an untrained model."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"corpus_dir": str(folder / "data"), "output_dir": str(folder / "manifests")}
    settings = {"task": task, "dataset": datasets[0]["name"], "batch_size": 4, **training}
    content = {"model": model, "global_config": shared, "datasets": datasets, "training": settings}
    content["generation"] = {"num_samples": 3, "max_new_tokens": 8}
    (folder / "experiment.yml").write_text(dump(content))
    config = with_vocabulary(add_default_sections(read_experiment(folder / "experiment.yml", will_train=False).config))
    tokenizer = DatasetManager.tokenizer(config.datasets[0])
    torch.manual_seed(0)
    network, _ = build_network(config, tokenizer)
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.write_config(config)
    if tokenizer is not None:
        tokenizer.save(run.tokenizer)
    write_weights(run.path / WEIGHTS, named_weights(network))
    return run.path


def open_with_model(run: Path, model: nn.Module, *overrides: str) -> tuple[LoadedRun, Split]:
    """Load a run and its split `test`, and replace its model."""
    opened = replace(open_run(run, overrides), model=model.eval())
    return opened, load_split(opened, "test", max_rows=None, seed=0)


class Unigram(nn.Module):
    """Unigram model: the same distribution of the next token at every position."""

    def __init__(self, probabilities: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(probabilities.log())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)
