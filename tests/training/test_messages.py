"""Messages of a run: start of --resume, missing evaluation, conditions, interrupts, concurrent runs, streams."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from model.device import DeviceError
from model_factory.experiment.config import read_experiment
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training import engine
from model_factory.training.errors import FolderInUseError
from model_factory.training.run.checkpoints import list_checkpoint_steps
from model_factory.training.run.environment import VISIBLE, show_only_gpu
from model_factory.training.run.folder import RunFolder
from model_factory.training.splits import describe_large_batch
from tests.training.runs import DECODER, bytes_of, experiment, metrics, start, train, wait_for

ROOT = Path(__file__).resolve().parents[2]
MOODS = "".join(f"{'aaaa' if row % 2 else 'bbbb'},{row % 2}\n" for row in range(24))
CONDITIONED = {
    "model_type": "diffusion",
    "objective": {"type": "mdlm"},
    "backbone": {"type": "performer", **DECODER, "dropout": 0.0, "position": "absolute", "max_length": 6},
}


def said(tmp_path, code, *argv):
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    assert train(*argv, log=log) == code, log.read_text()
    return log.read_text()


def moods(tmp_path, num_classes=2, **entry):
    (tmp_path / "moods.csv").write_text("text,mood\n" + MOODS)
    files = {"train": str(tmp_path / "moods.csv"), "validation": str(tmp_path / "moods.csv")}
    data = {"name": "moods", "source": "csv", "data_files": files, "rows": "whole", "sequence_length": 6, **entry}
    model = {**CONDITIONED, "condition": {"type": "class", "num_classes": num_classes}}
    steps = {"max_steps": 150, "learning_rate": 1e-2, "eval_steps": 150, "save_steps": 150, "batch_size": 16}
    return experiment(tmp_path, model=model, datasets=[data], **steps)


def test_resume_reports_its_first_step(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    words = ("--config", path, "--output", run, "--resume")
    first = said(tmp_path, 0, *words)
    assert f"{run}: there is no such folder; the run starts from scratch\n{run}: training on cpu (" in first
    finished = said(tmp_path, 0, *words)
    assert finished == f"{run}: this run is finished; its weights are in {run}/model.safetensors\n"
    other = said(tmp_path, 1, *words, "--set", "training.seed=9")
    assert f"training.init_from: {run} it starts from" in other
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-6")
    refused = said(tmp_path, 1, *words, "--set", "training.seed=3")
    assert "resuming" not in refused
    assert "training failed" not in refused
    assert f"{run}: resuming from step 4 on cpu (" in said(tmp_path, 0, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "1"], "--gpu 1: there is no such GPU; available: cpu"),
        (["--set", "model.decoder.device=cuda:7"], "device 'cuda:7' is not on this machine; available: cpu"),
        (["--set", "model.decoder.device=xpu"], "device 'xpu' is not on this machine; available: cpu"),
    ],
)
def test_missing_gpu_is_wrong_usage(words, message, tmp_path):
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has GPU 1")
    path, run = experiment(tmp_path), tmp_path / "run"
    text = said(tmp_path, 2, "--config", path, "--output", run, *words)
    assert message in text
    assert "training" not in text
    assert not run.exists()


def test_gpu_option_hides_other_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for before, index, after in ((None, 1, "1"), ("3,5", 1, "5"), ("GPU-a,GPU-b", 0, "GPU-a")):
        monkeypatch.setenv(VISIBLE, before) if before else monkeypatch.delenv(VISIBLE, raising=False)
        show_only_gpu(index)
        assert os.environ[VISIBLE] == after
    monkeypatch.setenv(VISIBLE, "3,5")
    with pytest.raises(DeviceError, match=r"--gpu 2.* available: cpu, GPU 0, GPU 1 \(CUDA_VISIBLE_DEVICES is '3,5'\)"):
        show_only_gpu(2)


def test_run_train_script_has_a_default_experiment(tmp_path):
    (tmp_path / "runs" / "train-1").mkdir(parents=True)
    small = [
        "--set",
        "training.max_steps=1",
        "--set",
        "training.warmup_steps=0",
        "--set",
        "training.max_eval_samples=2",
    ]
    small += ["--set", "model.decoder.d_model=16", "--set", "generation.max_new_tokens=4"]
    script = [str(ROOT / "run_train.sh")]
    done = subprocess.run([*script, *small], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "runs/train-2: trained to step 1" in done.stdout
    wrong = subprocess.run([*script, "--gpu", "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "takes the index of a GPU, as in --gpu 1; got 'x'" in wrong.stderr


def test_batch_size_above_the_rows_is_noted(tmp_path):
    path = experiment(tmp_path, max_steps=1, batch_size=100)
    log = said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    assert "note: training.batch_size is 100, and there are 41 rows: each step trains on all of them" in log
    settings = TrainingConfig(batch_size=12)
    assert describe_large_batch(range(12), settings) is None


@pytest.mark.parametrize("save_steps", [2, 100_000])
def test_sigint_reports_last_checkpoint(tmp_path, save_steps):
    path, log = experiment(tmp_path, max_steps=100_000, save_steps=save_steps, eval_steps=100_000), tmp_path / "log"
    process = start("--config", path, "--output", tmp_path / "run", log=log)
    wait_for(lambda: log.exists() and "step 4/" in log.read_text(), process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    steps = list_checkpoint_steps(tmp_path / "run")
    assert f"stopped by SIGINT after step {steps[-1]:,}; --resume continues from step {steps[-1]:,}" in log.read_text()


def test_missing_evaluation_split_is_reported(tmp_path):
    path = experiment(tmp_path, datasets=[data_without_validation(tmp_path)])
    text = said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    assert "note: data set 'alone' has the splits train, and no evaluation split" in text
    for key in ("early_stopping_patience=2", "load_best_model_at_end=true"):
        text = said(tmp_path, 1, "--config", path, "--output", tmp_path / "other", "--set", f"training.{key}")
        assert f"{key.partition('=')[0]} needs evaluations" in text
        assert not (tmp_path / "other").exists()  # nothing was written, so nothing is left


def data_without_validation(tmp_path):
    (tmp_path / "alone.txt").write_text("one text after another, " * 40)
    return {"name": "alone", "source": "text", "data_files": {"train": str(tmp_path / "alone.txt")}}


def test_class_condition_is_learnt(tmp_path):
    path = moods(tmp_path, label="mood")
    said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    bound = [entry["eval_bound"] for entry in metrics(tmp_path / "run") if "eval_bound" in entry][-1]
    assert bound < 0.05  # the class determines the row; without it, the bound is ln 2 nats per row, 0.12 per token


def test_class_condition_needs_labels(tmp_path):
    text = said(tmp_path, 1, "--config", moods(tmp_path), "--output", tmp_path / "run")
    assert "the condition asks for the class of each row, and data set 'moods' has none" in text
    few = moods(tmp_path, label="mood", classes=["0", "x", "1"])
    text = said(tmp_path, 1, "--config", few, "--output", tmp_path / "few")
    assert "data set 'moods' names 3 classes; try num_classes: 3" in text


def test_translation_decodes_greedily_by_default(tmp_path):
    from tests.training.runs import seq2seq

    path = experiment(tmp_path, **seq2seq(tmp_path))
    path.write_text(path.read_text().replace("num_samples: 2", "top_k: 3"))
    said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    generation = RunFolder(tmp_path / "run").read_config().generation
    assert (generation.temperature, generation.num_samples, generation.top_k) == (0.0, 1, 3)


@pytest.mark.parametrize(("processes", "words"), [("1", "reset by peer"), ("2", "another process ended before")])
def test_connection_reset_is_explained_with_several_ranks(processes, words, monkeypatch, capsys):
    from argparse import Namespace

    from model_factory.cli.train_run import _report

    monkeypatch.setenv("WORLD_SIZE", processes)
    lost = ConnectionResetError(104, "Connection reset by peer")
    assert _report(lost, Namespace(config="a.yml", output="runs/none")) == 4
    assert words in capsys.readouterr().err


def test_run_created_concurrently_is_left_unchanged(tmp_path, monkeypatch):
    """Another process may create the run between the check of the folder and its lock, while torch is imported."""
    path, run = experiment(tmp_path / "a", max_steps=1, save_steps=1, eval_steps=1), tmp_path / "run"
    assert train("--config", path, "--output", tmp_path / "other") == 0
    locked = RunFolder.locked

    def late(self):
        shutil.copytree(tmp_path / "other", run)
        return locked(self)

    monkeypatch.setattr(RunFolder, "locked", late)
    config = read_experiment(path, ["training.seed=77"]).config
    with pytest.raises(FolderInUseError, match="is not empty; give another --output"):
        engine.train(config, run)
    shutil.rmtree(run)
    with pytest.raises(FolderInUseError, match="another process has trained in this folder in the meantime"):
        engine.train(read_experiment(path).config, run, resume=True)
    assert bytes_of(run) == bytes_of(tmp_path / "other")


def test_curves_escape_formula_in_title(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    said(tmp_path, 0, "--config", path, "--output", run, "--set", "model.name=a$\\foo{$b")
    assert (run / "curves.png").stat().st_size > 1000
