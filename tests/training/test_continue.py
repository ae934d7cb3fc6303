"""Continuation: a run resumes from its last checkpoint with other settings; what has weights or a tokenizer cannot change."""

import json
import shutil
from dataclasses import replace

import pytest

from model_factory.experiment.training_types import TrainingConfig
from model_factory.pages.evaluation_page import changed_settings
from model_factory.training.errors import UnfitError
from model_factory.training.run.checkpoints import read_checkpoint
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.logs import draw_curves, moving_average
from model_factory.training.run.resume import Change, ResumePlan, plan_share, read_history
from model_factory.training.share import Share, resolve_steps
from tests.training.runs import TEXT, bytes_of, experiment, losses, metrics, train

CONSTANT = {"lr_scheduler_type": "constant", "ema_decay": 0.9, "weight_decay": 0.1, "eval_steps": 4, "save_steps": 4}


def said(folder, code, *argv):
    log = folder / "log"
    log.unlink(missing_ok=True)
    assert train(*argv, log=log) == code, log.read_text()
    return log.read_text()


def settings(**values):
    return [word for key, value in values.items() for word in ("--set", f"training.{key}={value}")]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished run of 8 steps at a constant rate, with its config beside it."""
    folder = tmp_path_factory.mktemp("short")
    path = experiment(folder, max_steps=8, **CONSTANT)
    assert train("--config", path, "--output", folder / "run") == 0
    return folder


def copy_of(short, tmp_path):
    shutil.copytree(short / "run", tmp_path / "run")
    return short / "experiment.yml", tmp_path / "run"


def test_continued_run_equals_planned_run_bit_for_bit(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    planned = tmp_path / "planned"
    assert train("--config", config, "--output", planned, *settings(max_steps=16)) == 0
    log = said(tmp_path, 0, "--config", config, "--output", run, "--resume", *settings(max_steps=16))
    assert "training.max_steps: 8 before, 16 from here" in log
    assert "learning rate was" not in log
    for name in ("model.safetensors", "checkpoint-16/optimizer.pt", "checkpoint-16/ema.safetensors"):
        assert (run / name).read_bytes() == (planned / name).read_bytes(), name
    assert losses(run) == losses(planned)
    history = json.loads((run / "history.json").read_text())["configs"]
    assert [entry["from_step"] for entry in history] == [0, 8]
    assert history[1]["changed"] == [{"key": "training.max_steps", "before": 8, "after": 16}]
    assert [entry["config"]["training"]["max_steps"] for entry in history] == [8, 16]
    [section] = changed_settings(read_history(RunFolder(run)))
    assert section.rows[1:] == [("8", "training.max_steps", "8", "16")]
    again = said(tmp_path, 0, "--config", config, "--output", run, "--resume", *settings(max_steps=16))
    assert "this run is finished" in again


def test_other_rate_and_schedule_are_computed_anew_and_repeat(short, tmp_path):
    changes = settings(max_steps=12, learning_rate=1e-2, lr_scheduler_type="linear", weight_decay=0.0)
    runs = []
    for number in range(2):
        config, run = copy_of(short, tmp_path / str(number))
        log = said(tmp_path, 0, "--config", config, "--output", run, "--resume", *changes)
        assert "the learning rate was 0.0003, and is 0.003333 from step 8 on" in log
        runs.append(run)
    assert bytes_of(runs[0]) == bytes_of(runs[1]) != bytes_of(short / "run")
    rates = {entry["step"]: entry["learning_rate"] for entry in metrics(runs[0]) if "learning_rate" in entry}
    assert rates[9] == pytest.approx(1e-2 * 4 / 12)


def test_other_batch_size_reads_on_from_the_same_row(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    log = said(
        tmp_path,
        0,
        "--config",
        config,
        "--output",
        run,
        "--resume",
        *settings(max_steps=12, batch_size=6, save_steps=2),
    )
    assert "training.batch_size: 4 before, 6 from here" in log
    manifest = read_checkpoint(run, 12).manifest
    assert (manifest.batch_rows, manifest.rows_seen) == (6, 8 * 4 + 4 * 6)
    epochs = {entry["step"]: entry["epoch"] for entry in metrics(run) if "loss" in entry}
    assert epochs[12] == pytest.approx((8 * 4 + 4 * 6) / manifest.split_rows)
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-12")
    before = losses(run)
    same = settings(max_steps=12, batch_size=6, save_steps=2)
    assert train("--config", config, "--output", run, "--resume", *same) == 0
    assert losses(run) == before


def test_other_data_begin_at_their_first_row_with_the_same_tokenizer(tmp_path):
    path = experiment(tmp_path, max_steps=4, **CONSTANT)
    assert train("--config", path, "--output", tmp_path / "run") == 0
    other = tmp_path / "other.txt"
    other.write_text("".join(sorted(TEXT.split("\n")[0])) * 9 + "".join(str(digit) for digit in range(12)))
    change = ("--set", f"datasets.0.data_files.train={other}")
    refused = said(
        tmp_path, 1, "--config", path, "--output", tmp_path / "run", "--resume", *settings(max_steps=8), *change
    )
    assert "has other tokens than the one that the run was trained with" in refused
    (tmp_path / "more.txt").write_text((tmp_path / "train.txt").read_text() * 2)
    change = ("--set", f"datasets.0.data_files.train={tmp_path / 'more.txt'}")
    assert train("--config", path, "--output", tmp_path / "run", "--resume", *settings(max_steps=8), *change) == 0
    manifest = read_checkpoint(tmp_path / "run", 8).manifest
    assert manifest.rows_seen == 4 * 4


def test_what_weights_depend_on_is_refused_with_the_reason(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    options = ("--set", "model.decoder.d_model=32", "--set", "datasets.0.tokenizer={type: bytes}")
    log = said(tmp_path, 1, "--config", config, "--output", run, "--resume", *options, *settings(max_steps=16, seed=1))
    assert "model.decoder.d_model: 16 then, 32 now; the weights in its checkpoint are those of this model" in log
    assert "the model was trained on the ids of this tokenizer" in log
    assert "training.seed: 0 then, 1 now; the order of the rows" in log
    assert "before, 16 from here" not in log
    assert bytes_of(run) == bytes_of(short / "run")


def test_dropout_has_no_weights_and_may_change(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    change = ("--set", "model.decoder.dropout=0.0")
    log = said(tmp_path, 0, "--config", config, "--output", run, "--resume", *settings(max_steps=10), *change)
    assert "model.decoder.dropout: 0.1 before, 0.0 from here" in log
    assert "dropout: 0.0" in (run / "config.yml").read_text()


def test_no_step_left_is_refused_with_a_larger_number(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    log = said(tmp_path, 1, "--config", config, "--output", run, "--resume", *settings(learning_rate=0.1))
    assert "has done 8 steps, and training.max_steps is 8" in log
    assert "--set training.max_steps=16" in log


def test_settings_that_touch_no_weight_need_no_word(short, tmp_path):
    config, run = copy_of(short, tmp_path)
    log = said(tmp_path, 0, "--config", config, "--output", run, "--resume", *settings(save_steps=1, logging_steps=5))
    assert "this run is finished" in log
    assert "before" not in log
    assert not (run / "history.json").exists()


def test_epochs_and_warmup_ratio_become_steps():
    given = TrainingConfig(num_train_epochs=1.5, warmup_ratio=0.25)
    found = resolve_steps(given, rows=100, step_rows=8)
    assert (found.max_steps, found.warmup_steps, found.warmup_ratio) == (19, 5, None)
    assert resolve_steps(TrainingConfig(num_train_epochs=9, max_steps=7), 100, 8).max_steps == 7
    assert resolve_steps(TrainingConfig(num_train_epochs=0.001), 100, 8).max_steps == 1


def test_run_of_epochs_continues_with_more_epochs(tmp_path):
    path = experiment(tmp_path, lr_scheduler_type="constant")
    path.write_text(path.read_text().replace("max_steps: 6", "num_train_epochs: 0.25"))
    run = tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    rows = read_checkpoint(run, max(losses(run))).manifest.split_rows
    assert max(losses(run)) == -(-rows // 16)
    assert "this run is finished" in said(tmp_path, 0, "--config", path, "--output", run, "--resume")
    assert train("--config", path, "--output", run, "--resume", *settings(num_train_epochs=0.5)) == 0
    log = said(tmp_path, 1, "--config", path, "--output", run, "--resume", *settings(max_steps=70))
    assert "training.num_train_epochs 0.25 ends at step" in log
    assert "--set training.num_train_epochs=1" in log
    assert max(losses(run)) == -(-rows // 8)


def test_curves_mark_resumes_and_smooth_long_curves(tmp_path):
    entries = [{"step": step, "loss": 100 / (step + 1), "learning_rate": 0.1} for step in range(60)]
    sizes = []
    for resumed, changed in (((), ()), ((20,), ()), ((20,), (30,))):
        path = tmp_path / f"{len(sizes)}.png"
        draw_curves(entries, path, "title", resumed, changed)
        sizes.append(path.read_bytes())
    assert len(set(sizes)) == 3
    assert moving_average([1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    assert moving_average([0.0, 1.0], decay=0.5) == pytest.approx([0.0, 1 / 1.5])


def test_rows_of_a_step_are_kept_by_other_numbers_of_processes(short):
    plan = ResumePlan(read_checkpoint(short / "run", 8))
    given = TrainingConfig(batch_size=2, gradient_accumulation_steps=2)
    assert plan_share(given, plan, world=2, rank=1) == Share(2, 1, 2, 1)
    with pytest.raises(UnfitError, match="a step of this run has 4 rows"):
        plan_share(given, plan, world=3, rank=0)
    changed = replace(plan, changes=(Change("training.batch_size", 4, 2),))
    assert plan_share(given, changed, world=3, rank=0).rows == 12
    assert changed.row_offset(12, has_new_data=False) == 8 * 4 - 8 * 12
    assert changed.row_offset(12, has_new_data=True) == -8 * 12
