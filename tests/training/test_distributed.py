"""Two processes with gloo against one: same rows, same losses, resuming with another number of processes."""

import pytest
import torch

from tests.training.runs import DECODER, experiment, losses, metrics, seq2seq, text, train, train_by_two, weights

DETERMINISTIC = {**DECODER, "dropout": 0.0}
LINEAR = {**DETERMINISTIC, "attention_type": "causal_linear", "feature_redraw_interval": 3}
MDLM = {"process": {"type": "absorbing"}, "schedule": {"type": "loglinear"}, "objective": {"type": "mdlm"}}
BACKBONE = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "device": "cpu"}


def models(folder):
    return {
        "softmax": {"model": {"model_type": "decoder", "decoder": DETERMINISTIC}},
        "features redrawn": {"model": {"model_type": "decoder", "decoder": LINEAR}},
        "ragged pairs": seq2seq(folder),
        "diffusion": {"model": {"model_type": "diffusion", **MDLM, "backbone": BACKBONE}},
        "isolated documents": {
            "model": {"model_type": "decoder", "decoder": {**DETERMINISTIC, "attention_type": "causal_linear"}},
            "datasets": packed(folder),
        },
    }


def packed(folder):
    """Write lines of many lengths, packed into rows with isolated documents."""
    (folder / "lines.txt").write_text("".join(f"{'abcdefg ' * (number % 4)}{number}\n" for number in range(60)))
    files = {"train": str(folder / "lines.txt"), "validation": str(folder / "lines.txt")}
    layout = {"documents": "line", "rows": "packed", "document_ids": True, "sequence_length": 40}
    return [text("lines", files, **layout)]


def both(folder, **options):
    """Train the same file with two processes of 2 rows each, and with one of 4."""
    path = experiment(folder, batch_size=2, **options)
    one = folder / "one"
    log = folder / "log"
    assert train_by_two("--config", path, "--output", folder / "two", log=log) == [0, 0], log.read_text()
    assert train("--config", path, "--output", one, "--set", "training.batch_size=4", log=log) == 0, log.read_text()
    return folder / "two", one


def max_difference(two, one):
    first, second = weights(two), weights(one)
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in second)


@pytest.mark.parametrize("kind", ["softmax", "features redrawn", "ragged pairs", "diffusion", "isolated documents"])
def test_ddp_matches_single_process(kind, tmp_path):
    options = models(tmp_path)[kind]
    two, one = both(tmp_path, learning_rate=1e-2, ema_decay=0.9, **options)
    for key in ("loss", "eval_loss"):
        assert losses(two, key) == pytest.approx(losses(one, key), abs=1e-4, rel=0)
    assert max_difference(two, one) < 1e-4
    assert [entry["epoch"] for entry in metrics(two)] == [entry["epoch"] for entry in metrics(one)]


@pytest.mark.parametrize("first", [1, 2])
def test_ddp_resume_with_other_world_size(first, tmp_path):
    """Train 4 of 6 steps in one or two processes and the rest in two or one: the result is that of one process."""
    model = {"model_type": "decoder", "decoder": DETERMINISTIC}
    path = experiment(tmp_path, model=model, learning_rate=1e-2)
    whole, run, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    by_two = ("--set", "training.batch_size=2")
    assert train("--config", path, "--output", whole, log=log) == 0, log.read_text()
    runs = {1: lambda: [train("--config", path, "--output", run, "--resume", log=log)]}
    runs[2] = lambda: train_by_two("--config", path, "--output", run, "--resume", *by_two, log=log)
    assert set(runs[first]()) == {0}, log.read_text()
    (run / "model.safetensors").unlink()
    for path_of_last in run.glob("checkpoint-6/*"):
        path_of_last.unlink()
    (run / "checkpoint-6").rmdir()
    assert set(runs[3 - first]()) == {0}, log.read_text()
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4, rel=0)
    assert max_difference(run, whole) < 1e-4


def test_ddp_run_resumes_in_one_process_with_same_file(tmp_path):
    """Batches of two processes become gradient accumulation, so that a step keeps its rows."""
    model = {"model_type": "decoder", "decoder": DETERMINISTIC}
    path, run, log = experiment(tmp_path, model=model, batch_size=2), tmp_path / "run", tmp_path / "log"
    assert train_by_two("--config", path, "--output", run, log=log) == [0, 0], log.read_text()
    before = weights(run)
    (run / "model.safetensors").unlink()
    for path_of_last in run.glob("checkpoint-6/*"):
        path_of_last.unlink()
    (run / "checkpoint-6").rmdir()
    assert train("--config", path, "--output", run, "--resume", log=log) == 0, log.read_text()
    after = weights(run)
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
