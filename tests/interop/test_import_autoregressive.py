"""MDLM's autoregressive baseline as our decoder: a float64 network written from its description gives the same logits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.errors import PublishedError
from model_factory.cli.main import main
from model_factory.experiment.config import read_experiment
from model_factory.training.run.folder import load_run
from model_factory.yaml_config.errors import ConfigError
from tests.interop.published import HEADS, LENGTH, ROWS, run_import
from tests.interop.test_imported_run import write_tokenizer
from tests.oracles.published_ddit import random_state

IDS = torch.randint(ROWS - 1, (3, LENGTH), generator=torch.Generator().manual_seed(1))
HUB = {"model_type": "mdlm", "hidden_dim": 16, "n_blocks": 2, "n_heads": HEADS, "model_length": LENGTH, "causal": True}
HYDRA = {
    "parameterization": "ar",
    "backbone": "ar",
    "time_conditioning": False,
    "model": {"hidden_size": 16, "n_blocks": 2, "n_heads": HEADS, "length": LENGTH, "cond_dim": 6, "dropout": 0.1},
}


def write(folder: Path, config: dict[str, Any] = HUB, prefix: str = "backbone.") -> dict[str, Tensor]:
    """Write the folder of a baseline with random weights; return its tensors without a prefix."""
    folder.mkdir()
    state = {name: x for name, x in random_state(rows=ROWS).items() if not any(n in name for n in ("sigma", "adaLN"))}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")
    return state


def logits(
    state: dict[str, Tensor], ids: Tensor, *, approximate: str = "tanh", bias: float = 1, seen: int = 0
) -> Tensor:
    """Return logits [B, L, rows] in float64; each position attends to earlier ones, and to `seen` later ones."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    x = w["vocab_embed.embedding"][ids]
    batch, length, width = x.shape
    half = width // HEADS // 2
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(length, half, dtype=torch.float64), torch.arange(length)[:, None] * frequencies)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1 + seen)
    for index in range(2):
        at = f"blocks.{index}."
        qkv = norm(f"{at}norm1", x) @ w[f"{at}attn_qkv.weight"].T
        q, k, v = qkv.view(batch, length, 3, HEADS, 2 * half).permute(2, 0, 3, 1, 4)
        q, k = (torch.complex(y[..., :half].contiguous(), y[..., half:].contiguous()) * turn for y in (q, k))
        scores = (q @ k.conj().transpose(-1, -2)).real / math.sqrt(2 * half)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).reshape(batch, length, width) @ w[f"{at}attn_out.weight"].T
        inner = F.linear(norm(f"{at}norm2", x), w[f"{at}mlp.0.weight"], w[f"{at}mlp.0.bias"])
        x = x + F.linear(F.gelu(inner, approximate=approximate), w[f"{at}mlp.2.weight"], w[f"{at}mlp.2.bias"])
    return norm("output_layer.norm_final", x) @ w["output_layer.linear.weight"].T + bias * w["output_layer.linear.bias"]


@torch.no_grad()
def gap(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return (found.double() - wanted).abs().max().item()


@pytest.mark.parametrize(("config", "prefix"), [(HUB, "backbone."), (HYDRA, "")], ids=["hub", "hydra"])
@torch.no_grad()
def test_import_of_the_baseline_gives_its_logits(tmp_path: Path, config: dict[str, Any], prefix: str) -> None:
    state = write(tmp_path / "source", config, prefix)
    found = run_import(tmp_path / "source", tmp_path / "run")
    assert dict(found.facts)["attention"] == "causal"
    model: Any = load_run(tmp_path / "run", device="cpu").model
    wanted = logits(state, IDS)[..., : ROWS - 1]  # the mask is no token of ours
    assert gap(model(IDS), wanted) < 2e-6
    assert gap(model.double()(IDS), wanted) < 1e-10
    first, cache = model.start(IDS[:, :5])
    assert gap(first, wanted[:, 4]) < 1e-10
    assert gap(model.step(IDS[:, 5:6], cache), wanted[:, 5]) < 1e-10


@pytest.mark.parametrize("wrong", [{"approximate": "none"}, {"bias": 0}, {"seen": 1}], ids=["gelu", "bias", "causal"])
@torch.no_grad()
def test_wrong_settings_of_the_baseline_change_logits(tmp_path: Path, wrong: dict[str, Any]) -> None:
    state = write(tmp_path / "source")
    run_import(tmp_path / "source", tmp_path / "run")
    model: Any = load_run(tmp_path / "run", device="cpu").model
    assert gap(model(IDS), logits(state, IDS, **wrong)[..., : ROWS - 1]) > 1e-4


@torch.no_grad()
def test_mask_inside_the_vocabulary_of_the_baseline_is_never_predicted(tmp_path: Path) -> None:
    state = write(tmp_path / "source")
    run_import(tmp_path / "source", tmp_path / "run", mask_id=5)
    model: Any = load_run(tmp_path / "run", device="cpu").model
    wanted = logits(state, IDS)
    wanted[..., 5] = -torch.inf
    assert gap(model(IDS).double().softmax(-1), wanted.softmax(-1)) < 1e-6


def test_imported_baseline_generates_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "source")
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    words = ["--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["generate", *words, "--prompt", "a b c", "--num-samples", "1"]) == 0
    assert "a b c" in capsys.readouterr().out
    (tmp_path / "text.txt").write_text("a b c d e f g h i\n" * 20)
    assert main(["evaluate", *words, "--data", str(tmp_path / "text.txt"), "--num-samples", "0", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert any(figure["name"] == "perplexity" for figure in figures)


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"n_heads": None}, {}, "number of heads is not stated"),
        ({"n_heads": 3}, {}, "3 heads, which do not divide the width 16"),
        ({"model_length": None}, {}, "length of sequences is not stated"),
        ({"n_blocks": 3}, {}, "number of layers 3 in the config and 2 in the tensors"),
        ({}, {"blocks.1.norm2.weight": None}, "missing: blocks.1.norm2.weight"),
        ({}, {"blocks.1.norm2.bias": torch.zeros(16)}, "not known: blocks.1.norm2.bias"),
        ({}, {"output_layer.linear.bias": None}, "missing: output_layer.linear.bias"),
        ({}, {"blocks.0.adaLN_modulation.weight": torch.zeros(96, 6)}, "causal is true: an autoregressive baseline"),
    ],
)
def test_baseline_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], tensors: dict[str, Tensor | None], message: str
) -> None:
    write(tmp_path / "source", {key: value for key, value in {**HUB, **changes}.items() if value is not None})
    path = tmp_path / "source/model.safetensors"
    kept = load_file(path) | {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, path)
    with pytest.raises(PublishedError, match=message):
        run_import(tmp_path / "source", tmp_path / "run")


def test_head_bias_needs_a_head(tmp_path: Path) -> None:
    stack = "{d_model: 8, num_layers: 1, num_heads: 2, vocab_size: 5, head_bias: true, tie_embeddings: %s}"
    for parts, message in (
        (
            f"model_type: decoder, decoder: {stack % 'true'}",
            "head_bias needs an output head apart from the token embedding",
        ),
        (
            f"model_type: encoder_decoder, encoder: {stack % 'false'}, decoder: {stack % 'false'}",
            "the encoder of an encoder-decoder has no output head",
        ),
    ):
        (tmp_path / "a.yml").write_text(f"model: {{{parts}}}\n")
        with pytest.raises(ConfigError, match=message):
            read_experiment(tmp_path / "a.yml")


def test_imported_baseline_is_trained_further(tmp_path: Path) -> None:
    write(tmp_path / "source")
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    (tmp_path / "text.txt").write_text("a b c d e f g h i\n" * 20)
    (tmp_path / "tune.yml").write_text(f"""\
model: {{model_type: decoder, pretrained: {tmp_path}/source, decoder: {{device: cpu}}}}
global_config: {{output_dir: {tmp_path}/prepared}}
datasets:
  - {{name: a, source: text, data_files: {{train: {tmp_path}/text.txt}}, tokenizer: {{run: {tmp_path}/run}}, sequence_length: 8, rows: packed}}
training: {{max_steps: 1, batch_size: 2, learning_rate: 1.0e-5}}
""")
    assert main(["train", "--config", str(tmp_path / "tune.yml"), "--output", str(tmp_path / "tuned")]) == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "tuned"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert not torch.equal(before["head.bias"], after["head.bias"])
