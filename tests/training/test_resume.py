"""Stopped at any moment and resumed, a run ends bit for bit where an uninterrupted one ends."""

import random
import shutil
import signal
import time

import pytest

from tests.training.runs import bytes_of, experiment, losses, metrics, start, train, wait_for
from training.checkpoints import steps_of

FULL = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "load_best_model_at_end": True, "warmup_steps": 2}


def killed_at(moment, *argv):
    """Start a run, send SIGKILL as soon as `moment()` is true, and wait for its end."""
    process = start(*argv)
    wait_for(lambda: moment() or not process.is_alive())
    process.kill()  # nothing happens to one that has just ended
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = experiment(folder, max_steps=20, **FULL)
    assert train("--config", path, "--output", folder / "run") == 0
    return folder / "run"


def test_three_kills_at_random_moments(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"
    chance = random.Random(time.time_ns())
    for _ in range(3):
        before, delay = max(steps_of(run), default=0), chance.random() * 0.05

        def somewhere(before=before, delay=delay):
            return max(steps_of(run), default=0) > before and time.sleep(delay) is None

        assert killed_at(somewhere, "--config", config, "--output", run, "--resume") in (-signal.SIGKILL, 0)
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert losses(run) == losses(whole)
    assert [entry["step"] for entry in metrics(run)] == [entry["step"] for entry in metrics(whole)]
    assert (run / "samples.txt").read_bytes() == (whole / "samples.txt").read_bytes()


def test_killed_while_a_checkpoint_is_written(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"

    def is_writing():
        return steps_of(run) and any(run.glob(".writing-checkpoint-*"))

    assert killed_at(is_writing, "--config", config, "--output", run, "--resume") == -signal.SIGKILL
    kept = steps_of(run)
    assert kept
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert not list(run.glob(".writing-*"))


def test_killed_before_the_first_checkpoint_it_starts_afresh(whole, tmp_path):
    config, run = whole.parent / "experiment.yml", tmp_path / "run"
    assert killed_at((run / "config.yml").exists, "--config", config, "--output", run) == -signal.SIGKILL
    shutil.rmtree(run / "checkpoint-2", ignore_errors=True)
    assert train("--config", config, "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)
    assert losses(run) == losses(whole)


def test_killed_between_the_last_checkpoint_and_the_weights(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    assert train("--config", whole.parent / "experiment.yml", "--output", run, "--resume") == 0
    assert bytes_of(run) == bytes_of(whole)


def test_early_stopping_resumed_at_its_end_does_not_train_on(tmp_path):
    stop = {"early_stopping_patience": 1, "early_stopping_threshold": 50.0, "eval_steps": 2, "save_steps": 50}
    path, run = experiment(tmp_path, max_steps=40, **stop), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    assert steps_of(run) == [4]
    before = bytes_of(run)
    (run / "model.safetensors").unlink()
    assert train("--config", path, "--output", run, "--resume") == 0
    assert bytes_of(run) == before
    assert max(losses(run)) == 4


def test_checkpoints_are_counted_down_and_the_best_stays(tmp_path):
    options = {"save_total_limit": 2, "load_best_model_at_end": True, "learning_rate": 3.0, "max_grad_norm": 0.0}
    path, run = experiment(tmp_path, max_steps=10, eval_steps=1, save_steps=1, **options), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    found = losses(run, "eval_loss")
    best = min(found, key=found.get)
    assert steps_of(run) == sorted({best, 9, 10})
    (run / "checkpoint-10" / "model.safetensors").read_bytes()
    assert bytes_of(run) == (run / f"checkpoint-{best}" / "model.safetensors").read_bytes()


def test_edited_data_are_refused_and_data_that_moved_are_not(tmp_path):
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


def test_rows_that_are_not_trained_on_may_change_and_old_runs_get_their_hashes(tmp_path):
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


@pytest.mark.parametrize(
    "content", ["{}", '{"splits": {"train": 3}}', '{"splits": {"train": {"rows": "x", "hash": "y"}}}']
)
def test_damaged_hashes_are_told(whole, tmp_path, content):
    run, log = tmp_path / "run", tmp_path / "log.txt"
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    (run / "rows.json").write_text(content)
    assert train("--config", whole.parent / "experiment.yml", "--output", run, "--resume", log=log) == 3
    assert f"{run / 'rows.json'} does not hold hashes of splits; remove it" in log.read_text()
