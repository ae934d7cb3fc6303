"""Sweeps over a grid: stopped and continued, failed points, another sweep in the folder, checks before the first run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model_factory.cli.sweep import main
from model_factory.sweep.process import Stopper
from model_factory.training.errors import FolderInUseError, UnfitError
from model_factory.yaml_config.errors import ConfigValueError
from tests.sweep.sweeps import Forked, Killed, interrupt, parse, sweep, write_experiment
from tests.training.runs import bytes_of, train, wait_for

ROOT = Path(__file__).resolve().parents[2]

GRID = ("--set", "training.learning_rate=1e-3,1e-2", "--seeds", "0,1")
NAMES = [f"learning_rate={rate},seed={seed}" for rate in ("0.001", "0.01") for seed in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a 2 x 2 grid that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert sweep("--config", write_experiment(folder), *GRID, "--output", folder / "sweep", "--jobs", 2) == 0
    return folder / "sweep"


def test_killed_sweep_continues_bit_for_bit(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The sweep is killed within its first run, then stopped by SIGTERM within the second, then between two runs."""
    words = ("--config", whole.parent / "experiment.yml", *GRID, "--output", tmp_path / "sweep")
    runs = [tmp_path / "sweep" / name for name in NAMES]

    def kill_first(process: Forked) -> None:
        if process.has_checkpoint():
            process.kill_with_sweep()

    def stop_second(process: Forked) -> None:
        if process.output == runs[1]:
            interrupt(process)

    with pytest.raises(Killed):
        sweep(*words, watch=kill_first)
    assert not (runs[0] / "model.safetensors").exists()
    assert sweep(*words, watch=stop_second) == 128 + signal.SIGTERM
    assert (runs[0] / "model.safetensors").exists()
    assert any(runs[1].glob("checkpoint-*"))
    assert not (runs[2]).exists()
    said = capfd.readouterr().err
    assert "SIGTERM: the runs write their checkpoints; a second signal ends them at once" in said
    assert "stopped by SIGTERM; the same command continues it" in said
    kept = (runs[0] / "model.safetensors").stat().st_mtime_ns
    assert sweep(*words) == 0
    assert (runs[0] / "model.safetensors").stat().st_mtime_ns == kept
    assert [bytes_of(run) for run in runs] == [bytes_of(whole / name) for name in NAMES]
    assert len({bytes_of(run) for run in runs}) == 4
    out, err = capfd.readouterr()
    assert f"4 runs, {sum('finished before' in line for line in err.splitlines())} of them finished before" in err
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("[")][-1] == f"[4/4] {NAMES[3]}"
    assert out.splitlines()[2].startswith("learning_rate 0.01   2  ")


def test_finished_sweep_trains_nothing_and_may_grow(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = whole.parent / "experiment.yml"
    assert sweep("--config", config, *GRID, "--output", whole, watch=lambda _: pytest.fail("a run began")) == 0
    assert "4 runs, 4 of them finished before" in capsys.readouterr().err
    assert sweep("--config", config, *GRID[:3], "0,1,2", "--output", whole, "--jobs", 2) == 0
    assert "6 runs, 4 of them finished before" in capsys.readouterr().err
    assert json.loads((whole / "sweep.json").read_text())["points"][-1] == "learning_rate=0.01,seed=2"


def test_another_sweep_in_the_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    config = whole.parent / "experiment.yml"
    for words, expected in (
        (("--set", "training.learning_rate=1e-3,1e-2"), "training.seed: 0,1"),
        (("--set", "training.learning_rate=1e-3,2e-2", "--seeds", "0,1,2"), "training.learning_rate: 1e-3,1e-2 then"),
        ((*GRID[:3], "0,1,2", "--set", "training.batch_size=2"), "training.batch_size: 4 then, 2 now"),
    ):
        with pytest.raises(FolderInUseError, match=expected):
            sweep("--config", config, *words, "--output", whole)
    assert sweep("--config", config, *GRID[:3], "0,1,2", "--set", "training.save_steps=2", "--output", whole) == 0
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderInUseError, match=r"is not empty and has no sweep\.json"):
        sweep("--config", config, *GRID, "--output", tmp_path)


def test_key_that_a_later_version_adds_is_no_other_sweep(whole: Path) -> None:
    path = whole / "sweep.json"
    content = json.loads(path.read_text())
    del content["experiment"]["training"]["adam_beta2"]
    path.write_text(json.dumps(content))
    assert sweep("--config", whole.parent / "experiment.yml", *GRID[:3], "0,1,2", "--output", whole) == 0


def test_folder_without_runs_may_take_another_sweep(tmp_path: Path) -> None:
    words = ("--config", write_experiment(tmp_path, max_steps=1), "--output", tmp_path / "sweep")

    def kill(process: Forked) -> None:
        process.kill_with_sweep()

    with pytest.raises(Killed):
        sweep(*words, "--set", "training.batch_size=3,5", watch=kill)
    assert sweep(*words, "--seeds", "3") == 0
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["points"] == ["seed=3"]


def test_damaged_run_does_not_keep_others_from_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--config", write_experiment(tmp_path), "--output", tmp_path / "sweep", "--seeds", "0,1")
    first, second = (tmp_path / "sweep" / f"seed={seed}" for seed in (0, 1))

    def kill(process: Forked) -> None:
        if process.has_checkpoint():
            process.kill_with_sweep()

    with pytest.raises(Killed):
        sweep(*words, watch=kill)
    for path in first.glob("checkpoint-*/model.safetensors"):
        path.unlink()
    assert sweep(*words) == 4
    assert "failed with exit code 3; its last lines" in capsys.readouterr().err
    assert (second / "model.safetensors").is_file()


def test_run_that_was_continued_by_hand_is_refused(tmp_path: Path) -> None:
    config = write_experiment(tmp_path, max_steps=1, lr_scheduler_type="constant")
    words = ("--config", config, "--output", tmp_path / "sweep", "--seeds", "0")
    run = tmp_path / "sweep" / "seed=0"
    assert sweep(*words) == 0
    assert train("--config", config, "--output", run, "--resume", "--set", "training.max_steps=2") == 0
    with pytest.raises(
        UnfitError, match=r"seed=0 was trained with another config; move it(.|\n)*training.max_steps: 2"
    ):
        sweep(*words)
    run.rename(tmp_path / "continued")
    assert sweep(*words) == 0


def test_signal_while_a_run_starts_reaches_it() -> None:
    class Process:
        sent: list[int] = []

        def poll(self) -> int | None:
            return None

        def send_signal(self, number: int) -> None:
            self.sent.append(number)

    process = Process()
    with Stopper() as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_for(lambda: stopper.received) == signal.SIGTERM
        stopper.add(process)
    assert process.sent == [signal.SIGTERM]


def test_lock_is_held_by_the_runs_of_a_dead_sweep(whole: Path) -> None:
    import fcntl

    with (whole / ".sweep.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FolderInUseError, match="another sweep, or a run that it started"):
            sweep("--config", whole.parent / "experiment.yml", *GRID[:3], "0,1,2", "--output", whole)


def test_failed_point_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe not text")
    good = tmp_path / "train.txt"
    config = write_experiment(tmp_path, max_steps=1)
    files = f"--set=datasets.0.data_files.train={tmp_path / 'bad.txt'},{good}"
    assert sweep("--config", config, files, "--output", tmp_path / "sweep") == 4
    out, err = capsys.readouterr()
    assert "failed with exit code" in err
    assert "bad.txt" in err
    assert "1 run failed" in err
    assert "finished" in out
    assert len(list((tmp_path / "sweep").glob("train=*/model.safetensors"))) == 1
    assert sweep("--config", config, files, "--output", tmp_path / "sweep") == 4
    assert "[2/2]" in capsys.readouterr().err


def test_all_points_are_checked_before_the_first_run(tmp_path: Path) -> None:
    config = write_experiment(tmp_path)
    words = ("--config", config, "--output", tmp_path / "sweep", "--set", "training.learning_rate=1e-3,20,30")
    with pytest.raises(ConfigValueError) as found:
        sweep(*words, "--set", "model.decoder.num_heads=2,3")
    assert sorted(problem.place.file for problem in found.value.problems) == [
        "--set model.decoder.num_heads=3",
        "--set training.learning_rate=20",
        "--set training.learning_rate=30",
    ]
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(ConfigValueError, match=r"valid\.txt"):
        sweep("--config", config, "--output", tmp_path / "sweep", *GRID)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trials", "3"), "--trials goes with --search optuna"),
        (("--storage", "sqlite:///x"), "--storage goes with --search optuna"),
        (("--search", "optuna"), "needs the number of trials: --trials 30"),
        (("--search", "optuna", "--trials", "3"), "needs a key to search"),
        (("--search", "optuna", "--trials", "3", "--jobs", "2"), "--jobs goes with a grid"),
        (("--jobs", "0"), "takes a number of at least 1"),
        (("--set", "=1,2"), "--set takes KEY=VALUE"),
        (("--set", "training.max_steps=1..4"), "needs --search optuna"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--config", "x.yml", "--output", "x", "--seeds", "0,1", *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_invalid_file_has_the_exit_code_of_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--output", str(tmp_path / "sweep"), "--seeds", "0,1"]
    assert main(["--config", str(tmp_path / "none.yml"), *words]) == 3
    config = write_experiment(tmp_path)
    assert main(["--config", str(config), *words, "--set", "training.lerning_rate=1,2"]) == 1
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err


PROGRAM = """#!/bin/sh
trap 'echo ended >> "$0.said"; exit 0' TERM
echo began
for i in $(seq 200); do sleep 0.05; done
"""
"""Program in place of Python, which writes a line when it gets SIGTERM."""
PARENT = """
import os, signal, sys, time
from pathlib import Path
from model_factory.sweep.process import start_training

folder = Path(sys.argv[1])
sys.executable = str(folder / "program")
start_training([], folder / "log", os.open(folder / "lock", os.O_CREAT | os.O_RDWR))
while not (folder / "log").read_text():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_training_process_gets_sigterm_when_the_sweep_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program").write_text(PROGRAM)
    (tmp_path / "program").chmod(0o755)
    done = subprocess.run([sys.executable, "-c", PARENT, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_for((tmp_path / "program.said").exists)
