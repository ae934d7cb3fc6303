"""Security: no code from data files is executed, tested with real attack files for every reader."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from data_manager.errors import DataError
from data_manager.tokenizers.load import load_tokenizer
from model.hub import HubError
from model_factory.experiment.config import read_experiment
from model_factory.training.errors import RunFolderError, TrainingError
from model_factory.training.run.atomic_io import open_without_links
from model_factory.training.run.checkpoints import MANIFEST, read_json
from model_factory.training.run.folder import load_run
from model_factory.training.run.logs import SamplesLog
from model_factory.yaml_config.errors import ConfigError
from tests.training.runs import experiment, start, train

ROOT = Path(__file__).resolve().parents[1]
CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import BertConfig, BertForMaskedLM
class EvilConfig(BertConfig):
    model_type = "evil"
class EvilModel(BertForMaskedLM):
    config_class = EvilConfig
"""


class Payload:
    """Pickle payload that creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"weights": Payload(mark)})


def write_torch_attack(path: Path, mark: Path) -> None:
    """Write a torch.save file with the payload in its pickle."""
    torch.save({"a": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pickled(mark) if name.endswith("data.pkl") else content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    path = experiment(folder, max_steps=2, save_steps=1, eval_steps=2)
    log = folder / "log"
    assert train("--config", path, "--output", folder / "run", log=log) == 0, log.read_text()
    return path, folder / "run"


@pytest.fixture
def attacked(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Config of the experiment, and a copy of its run that a test may damage."""
    shutil.copytree(trained[1], tmp_path / "run")
    return trained[0], tmp_path / "run"


def test_attack_files_work_with_unsafe_loading(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "file"
    pickle.loads(pickled(mark))
    assert mark.exists()
    mark.unlink()
    write_torch_attack(path, mark)
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch MARK]", "!!python/name:os.system", "!include x"]
)
def test_yaml_tags_are_rejected(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "x.yml").write_text(f"model: {tag.replace('MARK', str(mark))}\n")
    with pytest.raises(ConfigError, match=r"x\.yml:1:8: tag .* is not allowed"):
        read_experiment(tmp_path / "x.yml")
    assert not mark.exists()


def test_pickle_instead_of_safetensors_weights_is_rejected(attacked: tuple[Path, Path], tmp_path: Path) -> None:
    run, mark = attacked[1], tmp_path / "mark"
    for write in (lambda path: path.write_bytes(pickled(mark)), lambda path: write_torch_attack(path, mark)):
        write(run / "model.safetensors")
        with pytest.raises(RunFolderError, match="damaged or not a safetensors file"):
            load_run(run)
        assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_pickle_in_checkpoint_is_rejected(name: str, attacked: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = attacked
    mark, log = tmp_path / "mark", tmp_path / "log"
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-2")
    file = run / "checkpoint-1" / name
    write_torch_attack(file, mark)
    manifest = read_json(run / "checkpoint-1" / MANIFEST)  # its sizes detect truncated files
    manifest["files"][name] = file.stat().st_size
    (run / "checkpoint-1" / MANIFEST).write_text(json.dumps(manifest))
    code = train("--config", path, "--output", run, "--resume", log=log)
    assert not mark.exists()
    assert code != 0
    assert "Traceback" not in log.read_text()
    assert name in log.read_text()


def test_remote_code_of_pretrained_model_is_rejected(tmp_path: Path) -> None:
    from model.denoisers.pretrained import load_language_model
    from model.latent import BertForLatentConnector

    folder, mark = tmp_path / "evil", tmp_path / "mark"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    names = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoModelForMaskedLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    for load in (
        lambda: load_language_model(str(folder), None),
        lambda: BertForLatentConnector.from_pretrained(folder),
    ):
        with pytest.raises(HubError):
            load()
        assert not mark.exists()


def test_remote_code_of_tokenizer_is_rejected(tmp_path: Path) -> None:
    folder, mark = tmp_path / "evil", tmp_path / "mark"
    folder.mkdir()
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nEvil = None\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("a\n")
    with pytest.raises(DataError):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", "."])
def test_data_set_name_cannot_be_a_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(f"datasets:\n  - {{name: {name!r}, source: embedded}}\n")
    with pytest.raises(ConfigError, match=r"x\.yml:2:12: datasets\.0\.name"):
        read_experiment(tmp_path / "x.yml")


def test_old_checkpoint_cleanup_does_not_follow_links(attacked: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = attacked
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "thesis.txt").write_text("years of work")
    shutil.rmtree(run / "checkpoint-2")
    (run / "model.safetensors").unlink()
    (run / "checkpoint-0").symlink_to(outside)
    process = start("--config", path, "--output", run, "--resume", log=tmp_path / "log")
    process.join()
    assert (outside / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", [".lock", "samples.txt", "metrics.jsonl", "tokenizer", "rows.json", "checkpoint-1"])
def test_run_does_not_write_through_links(name: str, attacked: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = attacked
    outside = tmp_path / "precious"
    outside.write_text("years of work")
    (run / "model.safetensors").unlink()
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    log = tmp_path / "log"
    assert train("--config", path, "--output", run, "--resume", log=log) == 2
    assert f"{run / name} is a link, and a run writes only inside its own folder" in log.read_text()
    assert outside.read_text() == "years of work"


def test_samples_log_rejects_link_created_during_run(tmp_path: Path) -> None:
    path, outside = tmp_path / "samples.txt", tmp_path / "precious"
    log = SamplesLog(path)
    log.append(1, ["one"])
    log.append(2, ["half \ud800"])
    assert path.read_text() == "===== step 1 =====\n--- 1\none\n\n===== step 2 =====\n--- 1\nhalf ?\n\n"
    path.rename(outside)
    path.symlink_to(outside)
    known = outside.read_text()
    with pytest.raises(
        TrainingError, match=re.escape(f"{path} is a link, and a run writes only inside its own folder")
    ):
        log.append(3, ["three"])
    assert outside.read_text() == known
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="is a link"):
        log.append(3, ["three"])
    assert not (tmp_path / "nowhere").exists()


def test_unopenable_file_is_not_reported_as_link(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_without_links(tmp_path, "a")


@pytest.mark.parametrize("verb", ["parse_args", "generate", "evaluate", "train"])
def test_modules_in_working_directory_are_not_imported(verb: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("torch", "numpy", "matplotlib", "pynvml", "lhotse"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    words = {
        "parse_args": ["--config", trained[0], "--build"],
        "train": ["--config", trained[0], "--output", tmp_path / "run", "--set", "training.max_steps=1"],
        "generate": ["--run", trained[1]],
        "evaluate": ["--run", trained[1], "--num-samples", "0", "--html", tmp_path / "page.html"],
    }[verb]
    command = [sys.executable, ROOT / f"{verb}.py", *words]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()
