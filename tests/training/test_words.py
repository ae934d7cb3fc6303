"""What a run says: where --resume begins, that nothing is evaluated, what a condition is made of."""

import os
import shutil
import signal

import pytest

from experiment.config import read_experiment
from tests.training.runs import DECODER, bytes_of, experiment, metrics, start, train, wait_for
from training import engine
from training.checkpoints import steps_of
from training.errors import FolderInUseError
from training.run_folder import RunFolder

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


def test_resume_says_where_it_begins(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    assert "there is no such folder; the run begins afresh" in said(
        tmp_path, 0, "--config", path, "--output", run, "--resume"
    )
    assert "the run was finished before" in said(tmp_path, 0, "--config", path, "--output", run, "--resume")
    more = said(tmp_path, 1, "--config", path, "--output", run, "--resume", "--set", "training.max_steps=9")
    assert f"training.init_from: {run} begins there" in more
    (run / "model.safetensors").unlink()
    assert "going on from step 6" in said(tmp_path, 0, "--config", path, "--output", run, "--resume")


@pytest.mark.parametrize("save_steps", [2, 100_000])
def test_an_interrupt_says_what_is_kept(tmp_path, save_steps):
    path, log = experiment(tmp_path, max_steps=100_000, save_steps=save_steps, eval_steps=100_000), tmp_path / "log"
    process = start("--config", path, "--output", tmp_path / "run", log=log)
    wait_for(lambda: log.exists() and "step 4/" in log.read_text())
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    steps = steps_of(tmp_path / "run")
    assert f"stopped by SIGINT after step {steps[-1]:,}; --resume goes on from step {steps[-1]:,}" in log.read_text()


def test_nothing_to_evaluate_on(tmp_path):
    path = experiment(tmp_path, datasets=[data_without_validation(tmp_path)])
    text = said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    assert "note: data set 'alone' has the splits train, and none to evaluate on" in text
    for key in ("early_stopping_patience=2", "load_best_model_at_end=true"):
        text = said(tmp_path, 1, "--config", path, "--output", tmp_path / "other", "--set", f"training.{key}")
        assert f"{key.partition('=')[0]} needs evaluations" in text
        assert not (tmp_path / "other").exists()  # nothing was written, so nothing is left


def data_without_validation(tmp_path):
    (tmp_path / "alone.txt").write_text("one text after another, " * 40)
    return {"name": "alone", "source": "text", "data_files": {"train": str(tmp_path / "alone.txt")}}


def test_a_condition_is_the_class_of_a_row(tmp_path):
    path = moods(tmp_path, label="mood")
    said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    told = [entry["eval_bound"] for entry in metrics(tmp_path / "run") if "eval_bound" in entry][-1]
    assert told < 0.05  # a row is its class, and without it there would be ln 2 nats a row, 0.12 a token


def test_a_condition_without_classes(tmp_path):
    text = said(tmp_path, 1, "--config", moods(tmp_path), "--output", tmp_path / "run")
    assert "the condition asks for the class of each row, and data set 'moods' has none" in text
    few = moods(tmp_path, label="mood", classes=["0", "x", "1"])
    text = said(tmp_path, 1, "--config", few, "--output", tmp_path / "few")
    assert "data set 'moods' names 3 classes; try num_classes: 3" in text


def test_a_translator_draws_nothing_unless_asked(tmp_path):
    from tests.training.runs import seq2seq

    path = experiment(tmp_path, **seq2seq(tmp_path))
    path.write_text(path.read_text().replace("num_samples: 2", "top_k: 3"))
    said(tmp_path, 0, "--config", path, "--output", tmp_path / "run")
    generation = RunFolder(tmp_path / "run").read_config().generation
    assert (generation.temperature, generation.num_samples, generation.top_k) == (0.0, 1, 3)


@pytest.mark.parametrize(("processes", "words"), [("1", "reset by peer"), ("2", "another process ended before")])
def test_a_connection_that_breaks_is_another_process_only_where_there_is_one(processes, words, monkeypatch, capsys):
    from argparse import Namespace

    from training.command import _report

    monkeypatch.setenv("WORLD_SIZE", processes)
    lost = ConnectionResetError(104, "Connection reset by peer")
    assert _report(lost, Namespace(config="a.yml", output="runs/none")) == 4
    assert words in capsys.readouterr().err


def test_a_run_that_another_process_made_meanwhile_stays_as_it_is(tmp_path, monkeypatch):
    """Between the look at a folder and its lock stands the import of torch; another process may be faster."""
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
    with pytest.raises(FolderInUseError, match="another process has trained in this folder meanwhile"):
        engine.train(read_experiment(path).config, run, resume=True)
    assert bytes_of(run) == bytes_of(tmp_path / "other")


def test_a_stream_cannot_be_trained_on(tmp_path):
    path = experiment(tmp_path)
    told = said(tmp_path, 1, "--config", path, "--output", tmp_path / "run", "--set", "datasets.0.streaming=true")
    assert "training counts its rows to order them, and a stream has no count" in told
    assert "Traceback" not in told


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_is(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    said(tmp_path, 0, "--config", path, "--output", run, "--set", "model.name=a$\\foo{$b")
    assert (run / "curves.png").stat().st_size > 1000
