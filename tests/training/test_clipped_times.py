"""`times: {clip: auto}`: the interval is chosen by evaluations, and a resumed run keeps it."""

import shutil

import pytest

from tests.training.runs import bytes_of, experiment, losses, metrics, train

DDIT = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 8, "dropout": 0.0, "device": "cpu"}
MODEL = {
    "model_type": "diffusion",
    "name": "clipped",
    "schedule": {"type": "loglinear", "eps": 0.0},
    "objective": {"type": "bd3lm", "block_size": 4, "times": {"clip": "auto"}},
    "backbone": DDIT,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clipped")
    path = experiment(folder, model=MODEL, max_steps=5, eval_steps=3, save_steps=2, ema_decay=0.9)
    path.write_text(path.read_text().replace("max_new_tokens: 8", "steps: 4"))
    assert train("--config", path, "--output", folder / "run", log=folder / "log") == 0
    return folder / "run"


def test_training_says_that_its_loss_is_no_bound(whole):
    log = (whole.parent / "log").read_text()
    assert "loss: of clipped times in training, which is no bound; evaluations compute the bound" in log
    trained = [entry for entry in metrics(whole) if "loss" in entry]
    assert all("diffusion" not in entry for entry in trained)
    evaluated = [entry for entry in metrics(whole) if "eval_loss" in entry]
    assert all(entry["eval_bound"] == pytest.approx(entry["eval_loss"], rel=1e-5) for entry in evaluated)


def test_interval_has_the_least_variance_of_the_last_evaluation(whole):
    entries = metrics(whole)
    first = next(entry for entry in entries if "eval_loss" in entry)
    variances = {name: value for name, value in first.items() if name.startswith("eval_clip_variance_")}
    assert len(variances) == 36
    low, high = map(float, min(variances, key=variances.get).removeprefix("eval_clip_variance_").split("_"))
    assert (low, high) != (0.001, 1.0)
    for entry in entries:
        if "loss" in entry:
            wanted = (0.001, 1.0) if entry["step"] <= 3 else (low, high)
            assert (entry["clip_low"], entry["clip_high"]) == pytest.approx(wanted)


def test_resumed_run_keeps_the_interval_bit_for_bit(whole, tmp_path):
    """The checkpoint of step 4 lies between two evaluations, so the interval comes from the one at step 3."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "model.safetensors").unlink()
    for folder in run.glob("checkpoint-*"):
        if folder.name != "checkpoint-4":
            shutil.rmtree(folder)
    assert train("--config", whole.parent / "experiment.yml", "--output", run, "--resume") == 0
    assert losses(run) == losses(whole)
    assert bytes_of(run) == bytes_of(whole)
    assert metrics(run)[-1]["eval_clip_variance_0.5_1"] == metrics(whole)[-1]["eval_clip_variance_0.5_1"]
