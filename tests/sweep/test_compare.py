"""Table over runs: means over seeds, names of rows, the best, interrupted runs, other tasks, and folders that are no runs."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from model_factory.cli.compare import main
from model_factory.experiment.config import read_experiment
from model_factory.pages.comparison_page import render_comparison_page
from model_factory.sweep.comparison import compare_runs, find_runs
from model_factory.sweep.records import is_higher_better, read_run
from model_factory.training.errors import RunFolderError
from model_factory.training.run.folder import RunFolder

FIRST = Path(__file__).resolve().parents[1] / "training" / "run_of_0_1" / "run"
"""A finished run of 6 steps, with a checkpoint, written by an earlier version."""


def make_run(folder: Path, *, losses: dict[int, float], seed: int = 0, steps: int = 6, **settings: object) -> Path:
    """Copy the run of an earlier version, with other logs and settings of its training."""
    shutil.copytree(FIRST, folder)
    text = (folder / "config.yml").read_text()
    for key, value in {"seed": seed, "max_steps": steps, **settings}.items():
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (folder / "config.yml").write_text(text)
    entries = []
    for step, loss in losses.items():
        entries += [{"step": step, "loss": loss + 1, "steps_per_second": 2.0}, {"step": step, "eval_loss": loss}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Return two learning rates with two seeds each, and one run that was interrupted."""
    found = [
        make_run(tmp_path / f"{rate}_{seed}", losses={3: 2.0, 6: loss}, seed=seed, learning_rate=rate)
        for rate, seed, loss in ((1e-3, 0, 1.0), (1e-3, 1, 2.0), (1e-2, 0, 3.0), (1e-2, 1, 3.0))
    ]
    late = make_run(tmp_path / "late", losses={3: 0.5}, learning_rate=1e-2, seed=2)
    (late / "model.safetensors").unlink()
    return [*found, late]


def test_rows_are_means_over_seeds_and_the_best_is_marked(runs: list[Path]) -> None:
    comparison = compare_runs(runs)
    assert [row.name for row in comparison.rows] == ["learning_rate 0.001", "learning_rate 0.01"]
    best, other = comparison.rows
    assert best.statistic("eval_loss").text() == "1.5 ± 0.71"
    assert other.statistic("eval_loss").text() == "3 ± 0"  # without the run that is not finished
    assert other.statistic("best eval_loss").mean == 2.0
    assert comparison.best["eval_loss"] == best.name
    assert "1.5 ± 0.71 *" in comparison.text()
    assert "2 finished, 1 interrupted at 4 of 6" in comparison.text()
    run = best.runs[0]
    assert (run.steps_per_second, run.seconds, run.step) == (2.0, 3.0, 6)
    assert run.parameters == 3907


def test_single_runs_have_no_deviation(runs: list[Path]) -> None:
    text = compare_runs([runs[0], runs[4]]).text()
    assert "±" not in text
    assert "interrupted at 4 of 6" in text


def test_json_csv_and_page(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs[0] / "evaluation.json").write_text(json.dumps({"figures": [{"name": "bits", "value": 2.5, "unit": "bits"}]}))
    words = list(map(str, runs))
    page = tmp_path / "page.html"
    assert main([*words, "--json", "--html", str(page)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["metrics"] == ["eval_loss", "best eval_loss", "bits (bits)"]
    first = report["rows"][0]
    assert first["differs"] == {"training.learning_rate": 0.001}
    assert first["metrics"]["eval_loss"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5), "n": 2, "is_best": True}
    assert first["metrics"]["bits (bits)"] == {"mean": 2.5, "std": None, "n": 1, "is_best": False}
    assert [run["seed"] for run in first["runs"]] == [0, 1]
    text = page.read_text()
    assert "eval_loss over steps" in text
    assert text.count("learning_rate 0.001") > 2
    assert "<script" not in text
    assert "src=" not in text
    assert main([*words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["training.learning_rate"] for row in rows] == ["0.001", "0.01"]
    assert float(rows[0]["eval_loss std"]) == pytest.approx(0.5**0.5)


def test_metric_sorts_the_rows(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for run, value in zip(runs[:4], (0.1, 0.1, 0.9, 0.9), strict=True):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 6, "eval_accuracy": value}) + "\n")
    comparison = compare_runs(runs, metric="eval_accuracy")
    assert [row.name for row in comparison.rows] == ["learning_rate 0.01", "learning_rate 0.001"]
    assert comparison.best["eval_accuracy"] == "learning_rate 0.01"
    assert main([*map(str, runs), "--metric", "eval_bleu"]) == 3
    assert "their metrics are: eval_loss, best eval_loss, eval_accuracy" in capsys.readouterr().err


def test_runs_that_differ_in_much_are_named_by_their_folders(runs: list[Path], tmp_path: Path) -> None:
    keys = {
        "batch_size": 2,
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "max_grad_norm": 2,
        "logging_steps": 2,
    }
    other = make_run(tmp_path / "other", losses={6: 1.0}, learning_rate=0.5, **keys)
    assert [row.name for row in compare_runs([runs[0], other]).rows] == [str(runs[0]), str(other)]
    same = make_run(tmp_path / "same", losses={6: 1.0}, learning_rate=1e-3, logging_steps=1, save_steps=1)
    assert len(compare_runs([runs[0], same]).rows) == 1


def test_metric_of_saved_weights_is_that_of_the_best_evaluation(tmp_path: Path) -> None:
    losses = {2: 3.0, 4: 1.0, 6: 2.0}
    last = read_run(make_run(tmp_path / "last", losses=losses))
    best = read_run(make_run(tmp_path / "best", losses=losses, load_best_model_at_end="true"))
    assert (last.objective("eval_loss"), best.objective("eval_loss")) == (2.0, 1.0)
    assert last.objective("eval_accuracy") is None


def test_folders_that_are_no_runs_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    damaged = tmp_path / "damaged"
    shutil.copytree(runs[0], damaged)
    (damaged / "config.yml").write_text("model: [")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"points": ["a=1"]}')
    for folder, reason in (
        ("none", "is not there"),
        ("file", "is a file"),
        ("empty", "config.yml is not there; every run folder has this file"),
        ("damaged", "cannot be read as an experiment"),
        ("sweep", "no run has begun"),
    ):
        assert main([str(runs[0]) if folder != "sweep" else str(tmp_path / folder), str(tmp_path / folder)]) == 3
        err = capsys.readouterr().err
        assert reason in err
        assert err.startswith(str(tmp_path / folder))
    (runs[0] / "evaluation.json").write_text("[]")
    assert main([str(runs[0]), "--json"]) == 3
    assert "has no list of figures" in json.loads(capsys.readouterr().out)["errors"][0]["message"]


def test_runs_of_a_sweep_stand_for_its_folder(runs: list[Path], tmp_path: Path) -> None:
    names = [run.name for run in runs]
    (tmp_path / "sweep.json").write_text(json.dumps({"points": [*names, "not_begun"]}))
    assert find_runs([tmp_path, runs[0]]) == (runs, [f"{tmp_path}: 1 of 6 runs have not begun"])
    (tmp_path / "sweep.json").write_text('{"points": 3}')
    with pytest.raises(RunFolderError, match="does not list the points"):
        find_runs([tmp_path])


def test_hostile_logs_break_no_table(runs: list[Path]) -> None:
    lines = [
        '{"step": 3, "eval_loss": NaN, "steps_per_second": -1}',
        '{"step": 4, "eval_loss": "x", "steps_per_second": 0}',
        '{"step": 5, "eval_loss": true, "loss": 1e400}',
        "not json",
    ]
    (runs[0] / "metrics.jsonl").write_text("\n".join(lines))
    (runs[0] / "environment.json").write_text(
        '{"sessions": [3, {"from_step": "x", "parameters": "y", "processes": []}]}'
    )
    (runs[0] / "model.safetensors").write_bytes(b"\xff" * 20)
    record = read_run(runs[0])
    assert record.metrics == {}
    assert (record.parameters, record.steps_per_second, record.seconds) == (None, None, None)
    assert "–" in compare_runs(runs).text()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("eval_loss", False),
        ("best eval_loss", False),
        ("eval_accuracy", True),
        ("bleu", True),
        ("wer", False),
        ("bits_per_token (bits)", False),
        ("entropy", None),
        ("eval_stars", None),
    ],
)
def test_direction_of_a_metric(metric: str, expected: bool | None) -> None:
    assert is_higher_better(metric) is expected


def test_packaged_configs_of_every_task_are_compared(tmp_path: Path) -> None:
    """Each config is written as a run that was interrupted before its first log."""
    folder = Path(__file__).resolve().parents[2] / "configs"
    configs = [*folder.glob("*.yml"), *folder.glob("training/*.yml"), *folder.glob("latent/*.yml")]
    for path in configs:
        (tmp_path / path.stem).mkdir()
        RunFolder(tmp_path / path.stem).write_config(read_experiment(path, will_train=False).config)
    comparison = compare_runs([tmp_path / path.stem for path in configs])
    assert len(comparison.rows) == len(configs) > 10
    assert {row.state for row in comparison.rows} == {"interrupted before the first log"}
    assert comparison.metrics == []
    assert "<table>" in render_comparison_page("all", comparison)
