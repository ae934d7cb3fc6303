"""Resume: a run killed at any moment and resumed ends bit for bit like an uninterrupted one."""

import random
import shutil
import signal
import time

import pytest
import torch

from model_factory.training.errors import RunFolderError
from model_factory.training.log_window import read_log_window
from model_factory.training.run.checkpoints import list_checkpoint_steps
from tests.training.runs import DECODER, bytes_of, experiment, losses, metrics, start, train, train_by_two, wait_for

FULL = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "load_best_model_at_end": True, "warmup_steps": 2}


def kill_at(moment, *argv):
    """Start a run, send SIGKILL as soon as `moment()` is true, and return its exit code."""
    process = start(*argv)
    wait_for(lambda: moment() or not process.is_alive())
    process.kill()  # no effect if it has just ended
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = experiment(folder, max_steps=20, **FULL)
    assert train("--config", path, "--output", folder / "run") == 0
    return folder / "run"


def test_resume_after_three_sigkills_is_bit_exact(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"
    chance = random.Random(time.time_ns())
    for _ in range(3):
        before, delay = max(list_checkpoint_steps(run), default=0), chance.random() * 0.05

        def somewhere(before=before, delay=delay):
            return max(list_checkpoint_steps(run), default=0) > before and time.sleep(delay) is None

        assert kill_at(somewhere, "--config", config, "--output", run, "--resume") in (-signal.SIGKILL, 0)
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert losses(run) == losses(whole)
    assert [entry["step"] for entry in metrics(run)] == [entry["step"] for entry in metrics(whole)]
    assert (run / "samples.txt").read_bytes() == (whole / "samples.txt").read_bytes()


def test_resume_after_sigkill_while_writing_checkpoint(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"

    def is_writing():
        return list_checkpoint_steps(run) and any(run.glob(".writing-checkpoint-*"))

    assert kill_at(is_writing, "--config", config, "--output", run, "--resume") == -signal.SIGKILL
    kept = list_checkpoint_steps(run)
    assert kept
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert not list(run.glob(".writing-*"))


def test_resume_without_checkpoint_starts_from_scratch(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"
    assert kill_at((run / "config.yml").exists, "--config", config, "--output", run) == -signal.SIGKILL
    shutil.rmtree(run / "checkpoint-2", ignore_errors=True)
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert losses(run) == losses(whole)


def test_resume_after_last_checkpoint_writes_weights(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    assert train("--config", whole.parent / "experiment.yml", "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)


def test_resume_after_early_stopping_trains_no_further(tmp_path):
    stop = {"early_stopping_patience": 1, "early_stopping_threshold": 50.0, "eval_steps": 2, "save_steps": 50}
    path, run = experiment(tmp_path, max_steps=40, **stop), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    assert list_checkpoint_steps(run) == [4]
    before = bytes_of(run)
    (run / "model.safetensors").unlink()
    assert train("--config", path, "--output", run, "--resume") == 0
    assert bytes_of(run) == before
    assert max(losses(run)) == 4


def test_checkpoint_rotation_keeps_best(tmp_path):
    options = {"save_total_limit": 2, "load_best_model_at_end": True, "learning_rate": 3.0, "max_grad_norm": 0.0}
    path, run = experiment(tmp_path, max_steps=10, eval_steps=1, save_steps=1, **options), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    found = losses(run, "eval_loss")
    best = min(found, key=found.get)
    assert list_checkpoint_steps(run) == sorted({best, 9, 10})
    (run / "checkpoint-10" / "model.safetensors").read_bytes()
    assert bytes_of(run) == (run / f"checkpoint-{best}" / "model.safetensors").read_bytes()


def test_data_hashes_refuse_edited_but_not_moved_data(tmp_path):
    path, run, log = experiment(tmp_path / "a"), tmp_path / "run", tmp_path / "log.txt"
    assert train("--config", path, "--output", run) == 0
    (run / "model.safetensors").unlink()  # as if killed after its last checkpoint
    (tmp_path / "a").rename(tmp_path / "b")
    path = tmp_path / "b/experiment.yml"
    for file in (path, run / "config.yml"):
        file.write_text(file.read_text().replace(f"{tmp_path}/a/", f"{tmp_path}/b/"))
    assert train("--config", path, "--output", run, "--resume") == 0
    (run / "model.safetensors").unlink()

    valid = tmp_path / "b/valid.txt"
    valid.write_text(valid.read_text().replace("jumps over", "over jumps", 1))
    assert train("--config", path, "--output", run, "--resume", log=log) == 1
    said = log.read_text()
    assert "split 'validation' has as many rows as when the run began, " in said
    assert "split 'train'" not in said
    assert not (run / "model.safetensors").exists()


def test_data_hashes_allow_changes_in_unused_splits(tmp_path):
    path, run, log = experiment(tmp_path, max_steps=2), tmp_path / "run", tmp_path / "log.txt"
    (tmp_path / "test.txt").write_text("one line\n")
    path.write_text(path.read_text().replace("valid.txt", f"valid.txt\n      test: {tmp_path}/test.txt"))
    assert train("--config", path, "--output", run) == 0
    known = (run / "rows.json").read_text()
    (run / "rows.json").unlink()
    (run / "model.safetensors").unlink()
    assert train("--config", path, "--output", run, "--resume") == 0
    assert (run / "rows.json").read_text() == known
    (run / "model.safetensors").unlink()
    (tmp_path / "test.txt").write_text("another line\nand one more\n")
    assert train("--config", path, "--output", run, "--resume", log=log) == 0
    assert "note: split 'test' has other rows than when the run began" in log.read_text()


MDLM = {"process": {"type": "absorbing"}, "schedule": {"type": "loglinear"}, "objective": {"type": "mdlm"}}
BACKBONE = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
WINDOWS = {
    "logging_steps": 4,
    "save_steps": 3,
    "save_total_limit": 3,
    "eval_steps": 50,
    "max_steps": 8,
    "gradient_accumulation_steps": 2,
}


MEASURED = ("steps_per_second", "step_ms", "data_wait", "tokens_per_second", "memory_gib")


def without_speed(run):
    return [{key: value for key, value in entry.items() if key not in MEASURED} for entry in metrics(run)]


def back_to_step_3(whole, run):
    """Copy a run as it was when it stopped after step 3, between two logged steps."""
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    for step in (6, 8):
        shutil.rmtree(run / f"checkpoint-{step}")
    assert list_checkpoint_steps(run) == [3]
    return run


def test_first_loss_after_resume_covers_the_whole_window(tmp_path):
    """Metrics other than the loss (here the parts of the bound) cover it too."""
    path = experiment(tmp_path, model={"model_type": "diffusion", **MDLM, "backbone": BACKBONE}, **WINDOWS)
    whole = tmp_path / "whole"
    assert train("--config", path, "--output", whole) == 0
    run = back_to_step_3(whole, tmp_path / "run")
    assert train("--config", path, "--output", run, "--resume") == 0
    assert "diffusion" in metrics(run)[0]
    assert without_speed(run) == without_speed(whole)


def test_first_loss_after_resume_of_two_processes(tmp_path):
    model = {"model_type": "decoder", "decoder": {**DECODER, "dropout": 0.0}}
    path, whole, log = experiment(tmp_path, model=model, **WINDOWS), tmp_path / "whole", tmp_path / "log"
    assert train_by_two("--config", path, "--output", whole, log=log) == [0, 0], log.read_text()
    run, by_one = back_to_step_3(whole, tmp_path / "run"), back_to_step_3(whole, tmp_path / "by_one")
    assert train_by_two("--config", path, "--output", run, "--resume", log=log) == [0, 0], log.read_text()
    assert without_speed(run) == without_speed(whole)
    assert train("--config", path, "--output", by_one, "--resume", log=log) == 0, log.read_text()
    assert losses(by_one)[4] == pytest.approx(losses(whole)[4], abs=1e-4)


@pytest.mark.parametrize(
    "content",
    ["[1]", "{}", '{"processes": []}', '{"processes": [{"last_logged": 1.5}]}', '{"processes": [{"last_logged": 2}]}'],
)
def test_damaged_log_window_is_reported(tmp_path, content):
    (tmp_path / "log_window.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"log_window\.json does not hold the sums since the last logged step"):
        read_log_window(tmp_path, 0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    "content", ["{}", '{"splits": {"train": 3}}', '{"splits": {"train": {"rows": "x", "hash": "y"}}}']
)
def test_data_hashes_report_damaged_file(whole, tmp_path, content):
    run, log = tmp_path / "run", tmp_path / "log.txt"
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    (run / "rows.json").write_text(content)
    assert train("--config", whole.parent / "experiment.yml", "--output", run, "--resume", log=log) == 3
    assert f"{run / 'rows.json'} does not hold hashes of splits; remove it" in log.read_text()
