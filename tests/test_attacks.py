"""Nothing is executed from data: real attack files in every place that the program reads."""

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
from data_manager.tokenizer_load import load_tokenizer
from experiment.config import read_experiment
from model.hub import HubError
from tests.training.runs import experiment, start, train
from training.checkpoints import MANIFEST, read_json
from training.durable import open_own
from training.errors import RunFolderError, TrainingError
from training.run_folder import load_run
from training.samples_log import SamplesLog
from yaml_config.errors import ConfigError

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
    """What makes a pickle write a file as soon as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"weights": Payload(mark)})


def in_torchs_format(path: Path, mark: Path) -> None:
    """A file as torch.save writes it, with the payload in its pickle."""
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
    """A copy of the run that a test may spoil, and the file of its experiment."""
    shutil.copytree(trained[1], tmp_path / "run")
    return trained[0], tmp_path / "run"


def test_the_attack_files_work_where_they_are_read_carelessly(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "file"
    pickle.loads(pickled(mark))
    assert mark.exists()
    mark.unlink()
    in_torchs_format(path, mark)
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch MARK]", "!!python/name:os.system", "!include x"]
)
def test_tags_of_yaml(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "x.yml").write_text(f"model: {tag.replace('MARK', str(mark))}\n")
    with pytest.raises(ConfigError, match=r"x\.yml:1:8: tag .* is not allowed"):
        read_experiment(tmp_path / "x.yml")
    assert not mark.exists()


def test_a_pickle_in_place_of_weights(attacked: tuple[Path, Path], tmp_path: Path) -> None:
    run, mark = attacked[1], tmp_path / "mark"
    for write in (lambda path: path.write_bytes(pickled(mark)), lambda path: in_torchs_format(path, mark)):
        write(run / "model.safetensors")
        with pytest.raises(RunFolderError, match="not a whole safetensors file"):
            load_run(run)
        assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint(name: str, attacked: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = attacked
    mark, log = tmp_path / "mark", tmp_path / "log"
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-2")
    file = run / "checkpoint-1" / name
    in_torchs_format(file, mark)
    told = read_json(run / "checkpoint-1" / MANIFEST)  # which tells files that were cut short
    told["files"][name] = file.stat().st_size
    (run / "checkpoint-1" / MANIFEST).write_text(json.dumps(told))
    code = train("--config", path, "--output", run, "--resume", log=log)
    assert not mark.exists()
    assert code != 0
    assert "Traceback" not in log.read_text()
    assert name in log.read_text()


def test_code_beside_a_pretrained_model(tmp_path: Path) -> None:
    """A config that names code of its own is refused, and the code is not run."""
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


def test_code_beside_a_tokenizer(tmp_path: Path) -> None:
    folder, mark = tmp_path / "evil", tmp_path / "mark"
    folder.mkdir()
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nEvil = None\n")
    told = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "vocab.txt").write_text("a\n")
    with pytest.raises(DataError):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", "."])
def test_a_data_set_cannot_be_named_out_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(f"datasets:\n  - {{name: {name!r}, source: embedded}}\n")
    with pytest.raises(ConfigError, match=r"x\.yml:2:12: datasets\.0\.name"):
        read_experiment(tmp_path / "x.yml")


def test_checkpoints_that_are_links_are_not_followed_when_old_ones_go(
    attacked: tuple[Path, Path], tmp_path: Path
) -> None:
    """An old checkpoint that is a link to somewhere else is not emptied there."""
    path, run = attacked
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    shutil.rmtree(run / "checkpoint-2")
    (run / "model.safetensors").unlink()
    (run / "checkpoint-0").symlink_to(precious)
    process = start("--config", path, "--output", run, "--resume", log=tmp_path / "log")
    process.join(120)
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", [".lock", "samples.txt", "metrics.jsonl", "tokenizer", "rows.json", "checkpoint-1"])
def test_a_run_writes_through_no_link(name: str, attacked: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = attacked
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    (run / "model.safetensors").unlink()
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    log = tmp_path / "log"
    assert train("--config", path, "--output", run, "--resume", log=log) == 2
    assert f"{run / name} is a link, and a run writes into its own folder alone" in log.read_text()
    assert precious.read_text() == "years of work"


def test_samples_are_appended_to_no_link_that_comes_while_a_run_goes_on(tmp_path: Path) -> None:
    path, precious = tmp_path / "samples.txt", tmp_path / "precious"
    log = SamplesLog(path)
    log.append(1, ["one"])
    log.append(2, ["half \ud800"])
    assert path.read_text() == "===== step 1 =====\n--- 1\none\n\n===== step 2 =====\n--- 1\nhalf ?\n\n"
    path.rename(precious)
    path.symlink_to(precious)
    known = precious.read_text()
    with pytest.raises(TrainingError, match=re.escape(f"{path} is a link, and a run folder's files are its own")):
        log.append(3, ["three"])
    assert precious.read_text() == known
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="is a link"):
        log.append(3, ["three"])
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_may_not_be_opened_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_own(tmp_path, "a")


@pytest.mark.parametrize("verb", ["parse_args", "generate", "evaluate", "train"])
def test_modules_beside_the_data_are_not_imported(verb: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
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
