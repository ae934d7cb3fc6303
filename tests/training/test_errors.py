"""Errors end with a clear message and an exit code, and leave existing files intact."""

import json
import re
import shutil

import pytest

from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.checkpoints import list_checkpoint_steps, read_checkpoint
from model_factory.training.run.folder import load_run
from tests.training.runs import DECODER, FILE_SIZE, experiment, losses, start, train, wait_for

PLUGIN = ("--plugin", "tests.training.plugins")


def fails(code, message, *argv, log, environment=None):
    assert train(*argv, log=log, environment=environment) == code, log.read_text()
    assert message in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Train a run of 4 steps and remove its final weights."""
    folder = tmp_path_factory.mktemp("unfinished")
    path = experiment(folder, max_steps=4)
    assert train("--config", path, "--output", folder / "run") == 0
    (folder / "run" / "model.safetensors").unlink()
    return folder / "run"


@pytest.fixture
def copy(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "run")
    return tmp_path / "run"


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_output_folder_not_empty_is_refused(copy, unfinished, tmp_path):
    config, before = unfinished.parent / "experiment.yml", snapshot(copy)
    fails(2, "is not empty; give another --output", "--config", config, "--output", copy, log=tmp_path / "a")
    assert snapshot(copy) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    words = ("--config", config, "--output", tmp_path / "other", "--resume")
    fails(2, "it is not a run folder", *words, log=tmp_path / "b")
    words = ("--config", config, "--output", tmp_path / "other" / "letter.txt")
    fails(2, "is a file; give a folder", *words, log=tmp_path / "c")


def test_resume_with_other_config_is_refused(copy, unfinished, tmp_path):
    config, before = unfinished.parent / "experiment.yml", snapshot(copy)
    changes = ("--set", "model.decoder.d_model=32", "--set", "training.optim=adafactor")
    words = ("--config", config, "--output", copy, "--resume", *changes)
    fails(
        1,
        "model.decoder.d_model: 16 then, 32 now; the weights in its checkpoint are those of this model\n"
        "  training.optim: 'adamw_torch_fused' then, 'adafactor' now; its checkpoint has the moments of this optimiser",
        *words,
        log=tmp_path / "a",
    )
    assert snapshot(copy) == before
    free = ("--set", "training.save_steps=3", "--set", "generation.num_samples=1")
    assert train("--config", config, "--output", copy, "--resume", *free) == 0


def test_resume_with_other_row_count_is_refused(copy, unfinished, tmp_path):
    lines = (unfinished.parent / "train.txt").read_text()
    (tmp_path / "train.txt").write_text(lines * 2)
    text = (unfinished.parent / "experiment.yml").read_text()
    here = {path: text.replace(str(unfinished.parent / "train.txt"), str(path)) for path in [tmp_path / "train.txt"]}
    config = tmp_path / "experiment.yml"
    config.write_text(here[tmp_path / "train.txt"])
    (copy / "config.yml").write_text(
        (copy / "config.yml").read_text().replace(str(unfinished.parent / "train.txt"), str(tmp_path / "train.txt"))
    )
    fails(
        1,
        "restore its files, or give another --output",
        "--config",
        config,
        "--output",
        copy,
        "--resume",
        log=tmp_path / "log",
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "checkpoint.json"])
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_damaged_checkpoint_is_detected(name, how, copy):
    victim = copy / "checkpoint-4" / name
    if how == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(RunFolderError, match=r"checkpoint-4.*remove it to resume from checkpoint-2"):
        read_checkpoint(copy, 4)
    with pytest.raises(RunFolderError):
        load_run(copy)
    assert read_checkpoint(copy, 2).step == 2


def test_resume_refuses_damaged_checkpoint_but_not_earlier(copy, unfinished, tmp_path):
    config = unfinished.parent / "experiment.yml"
    weights = copy / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    before = snapshot(copy)
    fails(3, "was written with", "--config", config, "--output", copy, "--resume", log=tmp_path / "log")
    assert snapshot(copy) == before
    shutil.rmtree(copy / "checkpoint-4")
    assert train("--config", config, "--output", copy, "--resume") == 0


@pytest.mark.parametrize("name", ["config.yml", "tokenizer", "checkpoint-4"])
def test_load_run_names_missing_file(name, copy):
    for victim in [copy / name, *([copy / "checkpoint-2"] if name == "checkpoint-4" else [])]:
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(RunFolderError, match=r"is not there"):
        load_run(copy)


def test_full_disk_keeps_earlier_checkpoint(copy, unfinished, tmp_path):
    config = unfinished.parent / "experiment.yml"
    shutil.rmtree(copy / "checkpoint-4")
    before = snapshot(copy / "checkpoint-2")
    words = ("--config", config, "--output", copy, "--resume")
    for size in (3000, 12_000):  # too small for the weights, then for the optimiser state
        log = tmp_path / f"log{size}"
        fails(4, "checkpoint 4 cannot be written: ", *words, log=log, environment={FILE_SIZE: str(size)})
        assert re.search(
            r"the disk has [\d,]+ MB left; what was saved before is complete, and --resume", log.read_text()
        )
        assert "inline_container" not in log.read_text()
        assert snapshot(copy / "checkpoint-2") == before
        assert list_checkpoint_steps(copy) == [2]
        assert not list(copy.glob(".writing-*"))
    assert train(*words) == 0
    assert list(losses(copy)) == [1, 2, 3, 4]


def test_run_folder_lock_excludes_second_process(tmp_path):
    config, run = experiment(tmp_path, max_steps=500), tmp_path / "run"
    first = start("--config", config, "--output", run)
    wait_for(lambda: list_checkpoint_steps(run), first)
    words = ("--config", config, "--output", run, "--resume")
    fails(2, "another process is training in this folder", *words, log=tmp_path / "log")
    assert first.is_alive()
    first.kill()
    first.join()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fsdp": True},
            "training.fsdp shards a model over several processes, and there is one; start it with torchrun",
        ),
        ({"fsdp": True, "optim": "adafactor"}, "adafactor keeps means over the rows and columns of a weight"),
        ({"fp16": True}, "bf16: true, which works there"),
        ({"dataset": "huge"}, "training.dataset: training names 'huge', and the data sets are tiny"),
        ({"eval_split": "test"}, "has the splits train, validation"),
        ({"task": "translation"}, "takes encoder_decoder with source_ids, target_ids"),
    ],
)
def test_config_that_does_not_fit_is_refused(change, message, tmp_path):
    fails(1, message, "--config", experiment(tmp_path, **change), "--output", tmp_path / "run", log=tmp_path / "log")


def test_init_from_refuses_other_weights(tmp_path, unfinished):
    path, run = experiment(tmp_path), tmp_path / "run"
    words = ("--config", path, "--output", run, "--resume", "--set")
    fails(1, "nowhere is not a folder", *words, "training.init_from=nowhere", log=tmp_path / "a")
    (tmp_path / "train.txt").write_text("other letters, ÄÖÜ\n" * 20)
    other = f"training.init_from={unfinished / 'checkpoint-4'}"
    fails(1, "does not fit the model of this experiment", *words, other, log=tmp_path / "b")
    (tmp_path / "train.txt").write_text((unfinished.parent / "train.txt").read_text()[::-1])
    shutil.copytree(unfinished, tmp_path / "from")
    shutil.copy(unfinished / "checkpoint-4" / "model.safetensors", tmp_path / "from")
    characters = tmp_path / "from" / "tokenizer" / "vocabulary.json"
    held = json.loads(characters.read_text())
    held["characters"] = held["characters"][::-1]
    characters.write_text(json.dumps(held))
    fails(1, "gives tokens other ids", *words, f"training.init_from={tmp_path / 'from'}", log=tmp_path / "c")
    (tmp_path / "from" / "model.safetensors").write_bytes(b"x")
    fails(1, "cut short", *words, f"training.init_from={tmp_path / 'from'}", log=tmp_path / "d")
    assert "training failed" not in "".join((tmp_path / name).read_text() for name in "abcd")


def test_missing_extra_names_install_command(tmp_path, monkeypatch):
    import model_factory.training.run.environment
    from model_factory.experiment.training_types import LoraConfig, TrainingConfig

    monkeypatch.setattr(model_factory.training.run.environment, "find_spec", lambda name: None)
    for settings in (
        TrainingConfig(report_to="wandb"),
        TrainingConfig(report_to=["wandb"]),
        TrainingConfig(lora=LoraConfig()),
    ):
        with pytest.raises(UnfitError, match=r"needs the extra .* pip install"):
            model_factory.training.run.environment.check_extras(settings)


def test_nan_loss_names_rows(tmp_path):
    path = experiment(tmp_path, model={"model_type": "decoder", "decoder": DECODER})
    words = ("--config", path, "--output", tmp_path / "run", *PLUGIN, "--set", "training.task=broken")
    fails(4, "the loss is not finite at step 1, in the rows ", *words, log=tmp_path / "log")
