"""`--build`: shapes before memory, errors of a custom network in words, and no download."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.registry import BACKBONES, register_backbone
from model_factory.experiment.build import build_and_run, with_vocabulary
from model_factory.experiment.config import read_experiment
from model_factory.experiment.inputs import check_shapes
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.paths import forbidden_reason
from parse_args import main

TEXT = "the quick brown fox jumps over the lazy dog\n"


class Network(nn.Module):
    """Denoiser with the fault that its section names."""

    def __init__(self, fault: str, vocab_size: int) -> None:
        super().__init__()
        self.fault = fault
        self.embed = nn.Embedding(vocab_size, 8)
        self.out = nn.Linear(8, vocab_size - (fault == "width"))

    def forward(self, x_t: Tensor, sigma: Tensor | None) -> Tensor:
        hidden: Tensor = self.embed(x_t)
        if self.fault == "shape":
            hidden = hidden @ torch.ones(3, 4)
        if self.fault == "key":
            hidden = {"hidden": hidden}["heads"]
        if self.fault == "value":
            assert int(x_t.max()) >= 0  # which fake tensors do not know
        out: Tensor = self.out(hidden)
        return out


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT * 3)
    register_backbone("faulty")(lambda config, vocab_size: Network(config.fault, vocab_size))

    def write(fault: str, **more: Any) -> list[str]:
        data = {"name": "a", "source": "text", "data_files": {"train": "a.txt"}, "sequence_length": 16}
        backbone = {"type": "faulty", "fault": fault}
        model = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone, **more}
        sections = {"model": model, "datasets": [data], "training": {"max_steps": 1, "batch_size": 3}}
        Path("case.yml").write_text(dump(sections))
        return ["--config", "case.yml", "--build"]

    yield write
    BACKBONES._entries.pop("faulty")


@pytest.mark.parametrize("fault", ["none", "value"])
def test_build_runs_a_custom_network(fault: str, file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(file(fault)) == 0
    assert "one step of diffusion on 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("shape", "in forward: RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x8 and 3x4)"),
        ("key", "in forward: KeyError: 'heads'"),
    ],
)
def test_build_names_the_line_of_a_custom_network(
    fault: str, words: str, file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(file(fault)) == 4
    message = capsys.readouterr().err
    assert words in message
    assert f"case.yml: build failed: {__file__}:" in message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1


def test_build_compares_the_output_with_the_vocabulary(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(file("width")) == 4
    message = capsys.readouterr().err
    assert "the network gives an output of shape [2, 16, 32], and the process, with the tokens and its mask" in message
    assert "has 33 states: the last axis must have 33" in message


def test_build_refuses_weights_above_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wide.yml"
    stack = {"d_model": 1048576, "num_layers": 10, "num_heads": 2, "device": "cpu"}
    path.write_text(dump({"model": {"model_type": "encoder", "encoder": stack}}))
    assert main(["--config", str(path), "--build"]) == 4
    assert " GiB of memory; make the model smaller, or see --summary" in capsys.readouterr().err


def test_shapes_of_a_large_model_need_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.yml"
    stack = {"d_model": 4096, "num_layers": 2, "num_heads": 2, "device": "cpu", "vocab_size": 100}
    path.write_text(dump({"model": {"model_type": "decoder", "decoder": stack}}))
    check_shapes(read_experiment(path).config)


def test_build_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = tmp_path / "hub.yml"
    backbone = {"type": "hugging_face", "path": "nobody/nothing"}
    model = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "vocab_size": 9, "backbone": backbone}
    path.write_text(dump({"model": model}))
    assert main(["--config", str(path), "--build"]) == 4
    assert "the hub cannot be reached (--build downloads nothing)" in capsys.readouterr().err
    assert forbidden_reason() is None


SPEECH = """
model: {{model_type: encoder_decoder, encoder: {{{sizes}{encoder}}}, decoder: {{{sizes}}}}}
datasets: [{{name: librispeech{first}}}, {{name: timit}}]
{more}
"""


@pytest.mark.parametrize(
    ("parts", "width"),
    [
        ({}, 80),
        ({"more": "global_config: {features: {type: mfcc, num_ceps: 20}}"}, 20),
        ({"more": "global_config: {features: {num_mel_bins: 32}}"}, None),  # equal to d_model: no projection
        ({"encoder": ", input_dim: 80"}, 80),
        ({"more": "training: {max_steps: 1}"}, None),  # the task's front end fits the features to the model
    ],
    ids=["default", "mfcc", "as wide as the model", "given", "trained"],
)
def test_input_dim_is_taken_from_the_features(parts: dict[str, str], width: int | None, tmp_path: Path) -> None:
    sizes = {"sizes": "d_model: 32, num_layers: 1, num_heads: 2, device: cpu", "encoder": "", "first": "", "more": ""}
    (tmp_path / "experiment.yml").write_text(SPEECH.format(**sizes | parts))
    config = with_vocabulary(read_experiment(tmp_path / "experiment.yml", will_train=False).config)
    section: Any = config.model and config.model.config
    assert section.encoder_params.input_dim == width
    assert section.decoder_params.input_dim is None
    if "training" not in parts.get("more", ""):
        assert build_and_run(config).output_shape == [2, 256, 32]
