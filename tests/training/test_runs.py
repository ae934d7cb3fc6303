"""Training run from a YAML file: files in the run folder, loading, loss and learning rate."""

import shutil

import pytest
import torch

from model_factory.training.run.folder import load_run
from parse_args import parse_experiment
from tests.training.runs import bytes_of, experiment, losses, metrics, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run, log = folder / "run", folder / "log"
    assert train("--config", experiment(folder), "--output", run, log=log) == 0, log.read_text()
    return run


def test_run_folder_has_all_files(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    files = {"config.yml", "model.safetensors", "metrics.jsonl", "curves.png", "samples.txt", "environment.json"}
    assert names == files | {"rows.json", "tokenizer", "checkpoint-4", "checkpoint-6"}
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(losses(finished)) == [1, 2, 3, 4, 5, 6]
    assert list(losses(finished, "eval_loss")) == [3, 6]
    text = (finished / "samples.txt").read_text()
    assert text.count("===== step") == 2
    assert "===== step 6 =====\n--- 1\n" in text
    assert '"torch": "' in (finished / "environment.json").read_text()
    assert not [path for path in finished.rglob("*") if path.name in ("training_args.bin", "pytorch_model.bin")]


def test_run_config_has_every_default_and_is_readable(finished):
    config = parse_experiment(finished / "config.yml")
    assert config.training.task == "language_modelling"
    assert config.model.config.params.vocab_size is not None
    text = (finished / "config.yml").read_text()
    assert all(f"\n  {key}: " in text for key in type(config.training).model_fields if key != "lora")


def test_load_run_from_copied_folder(finished, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(finished, copy)
    model, tokenizer, config = load_run(copy)
    assert not model.training
    assert config.model.name == "tiny"
    prompt = torch.tensor([tokenizer.encode("the quick")])
    assert model(prompt).shape[-1] == tokenizer.vocab_size
    assert tokenizer.decode(tokenizer.encode("the quick")) == "the quick"


def test_load_run_of_unfinished_run_uses_last_checkpoint(finished, tmp_path):
    copy = tmp_path / "unfinished"
    shutil.copytree(finished, copy)
    (copy / "model.safetensors").unlink()
    state, whole = load_run(copy).model.state_dict(), load_run(finished).model.state_dict()
    assert all(torch.equal(state[name], whole[name]) for name in whole)


def test_resume_of_finished_run_is_reported(finished, tmp_path):
    before, log = bytes_of(finished), tmp_path / "log"
    assert train("--config", finished.parent / "experiment.yml", "--output", finished, "--resume", log=log) == 0
    assert "this run is finished" in log.read_text()
    assert bytes_of(finished) == before


def test_loss_falls_and_learning_rate_follows_schedule(tmp_path):
    options = {"max_steps": 20, "learning_rate": 1e-2, "warmup_steps": 5, "lr_scheduler_type": "cosine"}
    path = experiment(tmp_path, **options)
    assert train("--config", path, "--output", tmp_path / "run") == 0
    found = losses(tmp_path / "run")
    assert found[20] < found[1] - 0.5
    rates = [entry["learning_rate"] for entry in metrics(tmp_path / "run") if "learning_rate" in entry]
    assert rates[:6] == pytest.approx([0, 2e-3, 4e-3, 6e-3, 8e-3, 1e-2])
    assert rates[-1] < 1e-3


def test_fork_server_can_import_its_preload():
    """The server ignores a failed import, and then each process of a test imports torch again."""
    import tests.training.preload  # noqa: F401
