"""Training on a user's own speech with augmentation: resumed and with workers, a run hears what it would have heard."""

import shutil

from model_factory.training.rows import Rows
from tests.data_manager.own_corpora import wav
from tests.training.runs import bytes_of, experiment, losses, train

ENCODER = {"d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "input_dim": 80, "device": "cpu"}
SAME = {"batch_size": 4, "eval_steps": 2, "save_steps": 2, "lr_scheduler_type": "constant"}


def write_run(folder):
    """Train four steps over six cuts."""
    rows = [wav(folder / f"r{index}.wav", 0.2 + 0.05 * index, seed=index).name for index in range(6)]
    (folder / "train.csv").write_text("audio,text\n" + "".join(f"{folder}/{name},ab\n" for name in rows))
    wav(folder / "noise.wav", 0.3, seed=9)
    (folder / "noise.csv").write_text(f"audio\n{folder}/noise.wav\n")
    augmentation = {"noise": {"dataset": "noise"}, "tempo": {}, "volume": {}}
    table = {"source": "audio_table", "tokenizer": {"type": "bytes"}, "augmentation": augmentation}
    files = {"train": str(folder / "train.csv"), "validation": str(folder / "train.csv")}
    entries = [
        {"name": "mine", "data_files": files, **table},
        {"name": "noise", "source": "audio_table", "data_files": {"all": str(folder / "noise.csv")}},
    ]
    model = {"model_type": "encoder", "name": "listener", "encoder": ENCODER}
    speech = {"subsampling": 4, "channels": 4}
    path = experiment(folder, model=model, datasets=entries, dataset="mine", speech=speech, **{**SAME, "max_steps": 4})
    text = path.read_text().replace("datasets:", f"global_config: {{output_dir: {folder / 'manifests'}}}\ndatasets:")
    path.write_text(text)
    log = folder / "log"
    assert train("--config", path, "--output", folder / "run", log=log) == 0, log.read_text()


def test_resumed_run_with_augmentation_is_bit_exact(tmp_path):
    whole, log = tmp_path / "whole", tmp_path / "log"
    write_run(whole)
    run = shutil.copytree(whole / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoint-4")
    (run / "model.safetensors").unlink()
    workers = ("--set", "training.dataloader_num_workers=1")
    assert train("--config", whole / "experiment.yml", "--output", run, "--resume", *workers, log=log) == 0, (
        log.read_text()
    )
    assert bytes_of(run) == bytes_of(whole / "run")
    assert losses(run) == losses(whole / "run")


def test_training_rows_are_changed_by_epoch_and_others_are_not():
    rows = ["a", "b", "c"]
    keys = [(0, 0), (4, 1), (11, 2)]
    assert Rows(rows, lambda row, epoch: f"{row}{epoch}").__getitems__(keys) == list(
        zip(keys, ["a0", "b1", "c3"], strict=True)
    )
    assert Rows(rows).__getitems__(keys) == list(zip(keys, rows, strict=True))
