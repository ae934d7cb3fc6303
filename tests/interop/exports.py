"""Runs of tiny untrained models, and their exports by the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model_factory.cli.main import main
from model_factory.evaluation.run import LoadedRun, open_run
from tests.evaluation.untrained_runs import make_run, pair_data, text_data

STACK = {"d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "device": "cpu"}
DDIT = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 8, "device": "cpu"}
BERT = {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
PERFORMER = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}


def decoder(**changes: Any) -> dict[str, Any]:
    return {"model_type": "decoder", "name": "tiny", "decoder": {**STACK, **changes}}


def encoder(**changes: Any) -> dict[str, Any]:
    return {"model_type": "encoder", "name": "tiny", "encoder": {**STACK, **changes}}


def pair(**changes: Any) -> dict[str, Any]:
    linear = changes.get("attention_type") == "causal_linear"
    side = {**STACK, **changes, **({"attention_type": "linear"} if linear else {})}
    return {"model_type": "encoder_decoder", "name": "pair", "encoder": side, "decoder": {**STACK, **changes}}


def denoiser(backbone: dict[str, Any], objective: str = "mdlm", **more: Any) -> dict[str, Any]:
    block = {"block_size": 4} if objective == "bd3lm" else {}
    return {
        "model_type": "diffusion",
        "name": "tiny",
        "objective": {"type": objective, **block},
        "backbone": backbone,
        **more,
    }


def write_run(folder: Path, model: dict[str, Any], **data: Any) -> Path:
    """Write the run folder of a model with random weights; `data` are keys of its data set."""
    if model["model_type"] == "encoder_decoder":
        return make_run(folder, model, pair_data(folder / "texts", **data), "translation")
    task = {"decoder": "language_modelling", "diffusion": "diffusion"}[model["model_type"]]
    return make_run(folder, model, text_data(folder / "texts", **data), task)


def sharpen(run: Path) -> None:
    """Scale the weights of a run and add noise: heads that start at zero would make every output equal."""
    generator = torch.Generator().manual_seed(1)
    weights = load_file(run / "model.safetensors")
    changed = {
        name: 2 * tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }
    save_file(changed, run / "model.safetensors")


def export(run: Path, output: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run `model-factory export` with `--json`; return its exit code and what it printed."""
    capsys.readouterr()
    code = main(["export", "--run", str(run), "--output", str(output), "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def opened(run: Path) -> LoadedRun:
    return open_run(run, device="cpu")


def model_of(run: Path) -> nn.Module:
    return opened(run).model
