"""Optuna searches: trials of a study, killed trials that run again, failures, and one database for several folders."""

import re
from pathlib import Path

import pytest

from model_factory.sweep.grid import Axis
from model_factory.sweep.optuna_search import hide_password
from model_factory.training.errors import TrainingError, UnfitError
from tests.sweep.sweeps import Forked, Killed, interrupt, sweep, write_experiment
from tests.training.runs import bytes_of

SEARCH = (
    *("--search", "optuna", "--trials", 3),
    *("--set", "training.learning_rate=1e-3..1e-1:log", "--set", "training.optim=adamw_torch,adafactor"),
)


def runs_of(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: bytes_of(path.parent) for path in sorted(folder.glob("*/model.safetensors"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search that nothing stopped."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("search")
    assert sweep("--config", write_experiment(folder), *SEARCH, "--output", folder / "sweep") == 0
    return folder / "sweep"


def test_killed_trial_is_failed_and_runs_again(whole: Path, tmp_path: Path) -> None:
    """The sweep is killed within its first trial, and stopped by SIGTERM within the second."""
    import optuna

    folder = tmp_path / "sweep"
    words = ("--config", whole.parent / "experiment.yml", *SEARCH, "--output", folder)

    def kill(process: Forked) -> None:
        if process.has_checkpoint():
            process.kill_with_sweep()

    def stop_second(process: Forked) -> None:
        if process.output.name.startswith("trial-0001"):
            interrupt(process)

    with pytest.raises(Killed):
        sweep(*words, watch=kill)
    assert sweep(*words, watch=stop_second) == 143
    assert sweep(*words) == 0
    assert len(runs_of(whole)) == 3
    assert runs_of(folder) == runs_of(whole)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    assert study.trials[2].params == study.trials[3].params


def test_finished_search_trains_nothing_and_may_grow(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", whole.parent / "experiment.yml", *SEARCH, "--output", whole]
    assert sweep(*words, watch=lambda _: pytest.fail("a run began")) == 0
    words[words.index(3)] = 4
    assert sweep(*words) == 0
    assert "[4/4] trial-0003,learning_rate=" in capsys.readouterr().err


def test_two_folders_share_a_database(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path}/shared.db"
    config = write_experiment(tmp_path, max_steps=1)
    words = (
        "--config",
        config,
        *SEARCH[4:],
        "--search",
        "optuna",
        "--seeds",
        "0,1",
        "--storage",
        url,
        "--study",
        "both",
    )
    assert sweep(*words, "--trials", 1, "--output", tmp_path / "a") == 0
    assert sweep(*words, "--trials", 2, "--output", tmp_path / "b") == 0
    study = optuna.load_study(study_name="both", storage=url)
    assert len(study.trials) == 2
    assert study.trials[0].params != study.trials[1].params
    assert [len(runs_of(tmp_path / name)) for name in "ab"] == [2, 2]
    names = [name for folder in "ab" for name in runs_of(tmp_path / folder)]
    assert [re.sub(r"learning.*,optim=\w+", "...", name) for name in names] == [
        *("trial-0000,...,seed=0", "trial-0000,...,seed=1"),
        *("trial-0001,...,seed=0", "trial-0001,...,seed=1"),
    ]
    with pytest.raises(UnfitError, match="direction minimize; give --direction minimize"):
        sweep(*words, "--trials", 2, "--output", tmp_path / "c", "--direction", "maximize")


def test_search_without_the_metric_fails_with_those_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    words = ("--config", write_experiment(tmp_path, max_steps=1), *SEARCH[4:], "--search", "optuna", "--trials", 1)
    with pytest.raises(UnfitError, match="--metric eval_x: add --direction minimize or --direction maximize"):
        sweep(*words, "--output", tmp_path / "sweep", "--metric", "eval_x")
    assert sweep(*words, "--output", tmp_path / "sweep", "--metric", "eval_accuracy") == 4
    assert "the run has no finite eval_accuracy; its metrics: eval_loss, best eval_loss" in capsys.readouterr().err


def test_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path}/none/x.db?password=s3cret"
    words = ("--config", write_experiment(tmp_path), *SEARCH, "--output", tmp_path / "sweep")
    with pytest.raises(TrainingError, match="the database cannot be used"):
        sweep(*words, "--storage", url)
    assert hide_password("postgresql://me:s3cret@host/db") == "postgresql://me:***@host/db"
    assert hide_password("postgresql://me@host/db") == "postgresql://me@host/db"


def test_search_without_optuna_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnfitError, match=r"pip install 'model-factory\[sweep\]'"):
        sweep("--config", write_experiment(tmp_path), *SEARCH, "--output", tmp_path / "sweep")


def test_axis_ends_of_a_list_are_its_values() -> None:
    assert Axis("training.optim", ("a", "b")).ends == ("a", "b")
