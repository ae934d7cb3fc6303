"""Fault tolerance: signals, requeueing, lost workers, ranks and files, NaN gradients, clock jumps, full disks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.two_speakers import write_corpus
from model_factory.training.run.checkpoints import list_checkpoint_steps, read_checkpoint
from model_factory.yaml_config.dump import dump
from tests.training.runs import (
    CLOCK,
    DECODER,
    FILE_SIZE,
    bytes_of,
    experiment,
    losses,
    start,
    start_two,
    text,
    train,
    wait_for,
)

PLUGIN = ("--plugin", "tests.training.plugins")
FAILING_STEP = "TESTS_FAILING_STEP"  # read by the task `failing` of the plugin, which is not imported here
LONG = {"max_steps": 100_000, "save_steps": 100_000, "eval_steps": 100_000}


def reached(log, step):
    return lambda: log.exists() and f"step {step}/" in log.read_text().replace(",", "")


def run_until_signal(number, path, run, log, *more):
    """Start a run, send a signal after its fourth step and return its exit code."""
    process = start("--config", path, "--output", run, *more, log=log)
    wait_for(reached(log, 4), process)
    os.kill(process.pid, number)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_signal_ends_run_with_checkpoint(number, tmp_path):
    log, run = tmp_path / "log", tmp_path / "run"
    assert run_until_signal(number, experiment(tmp_path, **LONG), run, log) == 128 + number
    (step,) = list_checkpoint_steps(run)
    assert read_checkpoint(run, step).step == step >= 4
    assert not (run / "model.safetensors").exists()
    said = log.read_text()
    assert f"{number.name}: finishing this step" in said
    assert f"stopped by {number.name} after step {step:,}; --resume continues from step {step:,}" in said
    assert "Traceback" not in said


def test_repeated_sigusr1_requeue_is_bit_exact(tmp_path):
    path = experiment(tmp_path, max_steps=400, save_steps=400, eval_steps=400, logging_steps=1)
    words = ("--config", path, "--resume", "--output")
    assert train(*words, tmp_path / "whole") == 0
    stops = 0
    for attempt in range(6):  # the same command each time, as under a scheduler
        log = tmp_path / f"log{attempt}"
        process = start(*words, tmp_path / "run", log=log)
        wait_for(
            lambda log=log, process=process: "  loss " in log.read_text() if log.exists() else not process.is_alive()
        )
        if attempt < 3:
            os.kill(process.pid, signal.SIGUSR1)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == 128 + signal.SIGUSR1
        stops += 1
    assert stops == 3
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_loader_workers_survive_sigterm_to_process_group(tmp_path):
    path, log, run = experiment(tmp_path, **LONG, dataloader_num_workers=2), tmp_path / "log", tmp_path / "run"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "train.py", "--config", str(path), "--output", str(run)],
            stderr=file,
            start_new_session=True,
        )
    wait_for(reached(log, 4), process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert len(list_checkpoint_steps(run)) == 1


def test_sigterm_to_one_rank_stops_all_at_same_step(tmp_path):
    path, log, run = experiment(tmp_path, **LONG), tmp_path / "log", tmp_path / "run"
    first, second = start_two("--config", path, "--output", run, log=log)
    wait_for(reached(log, 4), first, second)
    os.kill(second.pid, signal.SIGTERM)
    for process in (first, second):
        process.join()
        assert process.exitcode == 128 + signal.SIGTERM
    assert read_checkpoint(run, list_checkpoint_steps(run)[0]).manifest.world == 2


def test_dead_rank_ends_run_which_resumes_from_checkpoint(tmp_path):
    path, log, run = experiment(tmp_path, **LONG | {"save_steps": 2}), tmp_path / "log", tmp_path / "run"
    first, second = start_two("--config", path, "--output", run, log=log)
    wait_for(reached(log, 4), first, second)
    second.kill()
    first.join()
    assert first.exitcode == 4
    assert "another process ended before this one" in log.read_text()
    step = list_checkpoint_steps(run)[-1]
    both = start_two("--config", path, "--output", run, "--resume", log=tmp_path / "again")
    wait_for(reached(tmp_path / "again", step + 2), *both)
    for process in both:
        process.kill()
        process.join()


def test_dead_loader_worker_is_explained(tmp_path):
    path, log, run = (
        experiment(tmp_path, **LONG | {"save_steps": 2}, dataloader_num_workers=2),
        tmp_path / "log",
        tmp_path / "run",
    )
    process = start("--config", path, "--output", run, log=log)
    wait_for(reached(log, 4), process)
    os.kill(child_of(process.pid), signal.SIGKILL)
    process.join()
    assert process.exitcode == 4
    said = log.read_text()
    assert "a process that loads data ended unexpectedly" in said
    assert "--resume continues from step" in said
    assert "Traceback" not in said


def child_of(pid):
    """Return the process id of a loader worker, a child of the training process."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


def test_nan_gradient_names_parameters_and_keeps_checkpoint(tmp_path):
    path, log, run = experiment(tmp_path), tmp_path / "log", tmp_path / "run"
    words = ("--config", path, "--output", run, *PLUGIN, "--set", "training.task=bursting")
    assert train(*words, log=log) == 4
    said = log.read_text()
    assert "the gradient norm is not finite at step 4" in said
    assert "the gradient is not finite in 1 of " in said
    assert "parameter group 0 (weight_decay" in said
    assert f"{run / 'checkpoint-2'} was written before it" in said
    kept = load_file(run / "checkpoint-2" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert list_checkpoint_steps(run) == [2]


def test_failing_samples_are_reported_and_training_continues(tmp_path):
    path, log, run = experiment(tmp_path, eval_steps=2), tmp_path / "log", tmp_path / "run"
    words = ("--config", path, "--output", run, *PLUGIN, "--set", "training.task=mute")
    assert train(*words, log=log) == 0
    said = log.read_text()
    assert said.count("note: samples cannot be written, and training continues: no samples today") == 1
    assert list_checkpoint_steps(run) == [4, 6]
    assert (run / "curves.png").exists()
    assert list(losses(run, "eval_loss")) == [2, 4, 6]


def test_curves_on_full_disk_lose_no_checkpoint(tmp_path):
    path, log, run = experiment(tmp_path, eval_steps=2, optim="adafactor"), tmp_path / "log", tmp_path / "run"
    limit = {FILE_SIZE: "30000"}  # less than curves.png, more than the optimiser state of Adafactor
    assert train("--config", path, "--output", run, log=log, environment=limit) == 0, log.read_text()
    assert log.read_text().count("note: curves cannot be written, and training continues: ") == 1
    assert not (run / "curves.png").exists()
    assert (run / "samples.txt").read_text().count("===== step") == 3


def test_error_in_step_saves_checkpoint_and_names_rows(tmp_path):
    intervals = {"save_steps": 100, "eval_steps": 3, "logging_steps": 3, "gradient_accumulation_steps": 2}
    path, log, run = experiment(tmp_path, **intervals), tmp_path / "log", tmp_path / "run"
    words = ("--config", path, *PLUGIN, "--set", "training.task=failing", "--output")
    assert train(*words, tmp_path / "whole") == 0
    assert train(*words, run, log=log, environment={FAILING_STEP: "5"}) == 4
    said = log.read_text()
    assert re.search(r"step 5, in one of the rows \d+, .* of the training split: this row is too long", said)
    assert "note: a checkpoint of step 4 was saved; --resume continues from it" in said
    assert "Traceback" not in said
    assert read_checkpoint(run, 4).step == 4
    assert train(*words, run, "--resume") == 0
    assert bytes_of(run) == bytes_of(tmp_path / "whole")
    assert losses(run) == losses(tmp_path / "whole")


def test_samples_lost_by_sigkill_are_written_on_resume(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    samples = (run / "samples.txt").read_text()
    (run / "samples.txt").write_text(samples[: samples.index("===== step 6")])
    (run / "model.safetensors").unlink()  # as after a kill between the last checkpoint and its samples
    assert train("--config", path, "--output", run, "--resume") == 0
    assert (run / "samples.txt").read_text() == samples


def test_truncated_prepared_rows_are_prepared_again(tmp_path):
    (tmp_path / "long.txt").write_text("".join(f"{number} is one of many numbers.\n" for number in range(30_000)))
    data = [text("long", {"train": str(tmp_path / "long.txt")}, sequence_length=24)]
    common = {"datasets": data, "logging_steps": 1, "eval_steps": 100_000}
    path = experiment(tmp_path, max_steps=100_000, save_steps=5, **common)
    path.write_text(path.read_text() + f"global_config:\n  output_dir: {tmp_path / 'prepared'}\n")
    log, run = tmp_path / "log", tmp_path / "run"
    process = start("--config", path, "--output", run, log=log)
    wait_for(reached(log, 6), process)
    (rows,) = (tmp_path / "prepared").rglob("rows.arrow")
    before = rows.read_bytes()
    os.truncate(rows, 1000)
    process.join()
    assert process.exitcode == -signal.SIGBUS
    assert "Bus error" in log.read_text()
    step = list_checkpoint_steps(run)[-1]
    again = start("--config", path, "--output", run, "--resume", log=tmp_path / "again")
    wait_for(reached(tmp_path / "again", step + 2), again)
    again.kill()
    again.join()
    (rows,) = (tmp_path / "prepared").rglob("rows.arrow")
    assert rows.read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_recording_is_named(workers, tmp_path):
    write_corpus(tmp_path / "voxconverse", 8, 1.0, seed=0)
    content = {
        "model": {"model_type": "encoder", "name": "speech", "encoder": {**DECODER, "input_dim": 80}},
        "global_config": {"corpus_dir": str(tmp_path), "output_dir": str(tmp_path / "prepared")},
        "datasets": [{"name": "voxconverse", "source": "lhotse", "loading": {"speakers": True}}],
        "training": {
            "task": "diarization",
            "train_split": "dev",
            "eval_split": "dev",
            "logging_steps": 1,
            "batch_size": 4,
        }
        | LONG
        | {"dataloader_num_workers": workers, "save_steps": 2},
    }
    path, log, run = tmp_path / "speech.yml", tmp_path / "log", tmp_path / "run"
    path.write_text(dump(content))
    process = start("--config", path, "--output", run, log=log)
    wait_for(reached(log, 4), process)
    victims = sorted((tmp_path / "voxconverse").rglob("*.wav"))
    for victim in victims:
        victim.unlink()
    process.join()
    said = log.read_text()
    assert process.exitcode == 4, said
    assert any(victim.name in said for victim in victims)
    assert "Traceback" not in said
    assert list_checkpoint_steps(run)


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_clock_jumps_do_not_change_training(jump, tmp_path):
    path = experiment(tmp_path)
    assert train("--config", path, "--output", tmp_path / "whole") == 0
    assert train("--config", path, "--output", tmp_path / "run", environment={CLOCK: str(jump)}) == 0
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert all(0 < speed < 1e4 for speed in losses(tmp_path / "run", "steps_per_second").values())


def test_resume_with_file_times_in_future(tmp_path):
    """Resume a run whose files were written on a machine whose clock is a day ahead."""
    path = experiment(tmp_path)
    words = ("--config", path, "--resume", "--output")
    assert train(*words, tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    later = time.time() + 86_400
    for file in [*tmp_path.glob("*.txt"), *(tmp_path / "run").rglob("*")]:
        os.utime(file, (later, later))
    assert train(*words, tmp_path / "run") == 0
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    speeds = losses(tmp_path / "run", "steps_per_second").values()
    assert all(speed > 0 for speed in speeds)


def test_read_only_folder_is_reported(tmp_path, request):
    """Write to a file system that is mounted read-only, where even root cannot write."""
    path, mount_point = experiment(tmp_path), tmp_path / "read_only"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", str(mount_point)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a read-only file system cannot be mounted here: {mounted.stderr.strip()}")
    request.addfinalizer(lambda: subprocess.run(["umount", str(mount_point)], check=True))
    log = tmp_path / "log"
    assert train("--config", path, "--output", mount_point / "run", log=log) == 4
    said = log.read_text()
    assert re.search(r"read_only/run cannot be written: .*Read-only file system", said)
    assert "Traceback" not in said
    prepared = ("--set", f"global_config.output_dir={mount_point}")
    assert train("--config", path, "--output", tmp_path / "run", *prepared, log=log) != 0
    assert f"prepared data cannot be written to {mount_point}" in log.read_text()
    assert not (tmp_path / "run").exists()


def test_full_disk_while_preparing_data_is_reported(tmp_path):
    path, log = experiment(tmp_path), tmp_path / "log"
    prepared = ("--set", f"global_config.output_dir={tmp_path / 'prepared'}")
    full = {FILE_SIZE: "300"}
    assert train("--config", path, "--output", tmp_path / "run", *prepared, log=log, environment=full) != 0
    assert "Traceback" not in log.read_text()
    assert f"prepared data cannot be written to {tmp_path / 'prepared'}" in log.read_text()
    assert not list((tmp_path / "prepared").rglob("inputs.json"))
    assert train("--config", path, "--output", tmp_path / "run", *prepared) == 0
