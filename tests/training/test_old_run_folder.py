"""Run folder of version 0.1.0, written before modules were moved: it loads, generates, resumes and evaluates."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model_factory import load_run, parse_experiment
from model_factory.cli.main import main
from model_factory.training.engine import train

OLD = Path(__file__).parent / "run_of_0_1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "old"
    shutil.copytree(OLD, copy)
    monkeypatch.chdir(copy)
    return copy


def test_old_run_folder_loads(folder: Path) -> None:
    run = load_run("run")
    assert run.tokenizer is not None
    ids = torch.tensor([run.tokenizer.encode("the quick")])
    assert run.model.eval()(ids).shape == (1, 9, 32)


def test_old_run_folder_generates_and_evaluates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--run", "run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"]) == 1
    assert main(["evaluate", "--run", "run", "--num-samples", "0", "--json"]) == 0
    figures = {one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)["figures"]}
    logged = [json.loads(line) for line in (OLD / "run" / "metrics.jsonl").read_text().splitlines()]
    loss = next(line["eval_loss"] for line in reversed(logged) if "eval_loss" in line)
    assert figures["bits_per_token"] == pytest.approx(loss / torch.log(torch.tensor(2.0)).item(), rel=0.02)


def test_old_run_folder_resumes_to_the_same_weights(folder: Path) -> None:
    finished = {name: tensor.clone() for name, tensor in load_run("run").model.state_dict().items()}
    Path("run/model.safetensors").unlink()
    result = train(parse_experiment("run/config.yml"), "run", resume=True)
    assert result.steps == 8
    resumed = load_run("run").model.state_dict()
    for name, tensor in finished.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4)


def test_old_config_file_of_a_run_checks(folder: Path) -> None:
    assert main(["validate", "--config", "run/config.yml"]) == 0
    assert main(["validate", "--config", "decoder.yml"]) == 0
