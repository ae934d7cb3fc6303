"""`model.pretrained: owner/name`: resolved on a hub on the loopback interface, pinned in the run, and found again offline."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from model_factory.cli.main import main
from model_factory.experiment.config import read_experiment
from model_factory.experiment.pretrained.section import is_published_place
from model_factory.training.network import load_initial_weights
from model_factory.training.run.folder import RunFolder, restore_run
from model_factory.yaml_config.errors import ConfigError
from tests.data_manager.fake_hub import SHA, fake_hub
from tests.interop.published import run_import, write_folder
from tests.interop.test_import_language_models import write as write_language_model
from tests.interop.test_imported_run import write_tokenizer

NOWHERE = "http://127.0.0.1:9"


def write_file(folder: Path, name: str, keys: str = "") -> Path:
    """Write an experiment that trains a pretrained model for one step with a tiny learning rate."""
    (folder / "text.txt").write_text("a b c d e f g h i\n" * 20)
    write_tokenizer(folder / "words")
    file = folder / "tune.yml"
    file.write_text(f"""\
model: {{model_type: diffusion, pretrained: {name}, {keys}backbone: {{device: cpu}}}}
global_config: {{output_dir: {folder}/prepared}}
datasets:
  - name: text
    source: text
    data_files: {{train: {folder}/text.txt}}
    tokenizer: {{type: hugging_face, path: {folder}/words}}
    rows: packed
    sequence_length: 8
training: {{max_steps: 1, batch_size: 2, learning_rate: 1.0e-7}}
""")
    return file


def call(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in another process, as the hub's library reads its settings at import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    settings |= {"HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "model_factory", *words]
    return subprocess.run(command, env=kept | settings, capture_output=True, text=True, check=False)


def test_hub_name_is_pinned_and_trained_further_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "source", "mdlm")
    files = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    files |= {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    file = write_file(tmp_path, "owner/name")
    with fake_hub({"owner/name": files}) as (address, asked):
        done = call(tmp_path, address, "validate", "--config", str(file), "--json")
    assert done.returncode == 0, done.stderr
    pin = f"note: {file}:1:44: owner/name has no commit, and this is the newest now; pin it: revision: {SHA}"
    assert done.stderr.count(pin) == 1
    assert json.loads(done.stdout)["config"]["training"]["init_from"] == f"owner/name@{SHA}"
    assert not any(name.endswith((".py", ".bin")) for name in asked)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home/hub"))
    file = write_file(tmp_path, "owner/name", f"revision: {SHA}, ")
    assert main(["train", "--config", str(file), "--output", str(tmp_path / "run")]) == 0
    config = yaml.safe_load((tmp_path / "run/config.yml").read_text())
    assert config["training"]["init_from"] == f"owner/name@{SHA}"
    assert (config["model"]["backbone"]["type"], config["model"]["backbone"]["device"]) == ("ddit", "cpu")
    run_import(tmp_path / "source", tmp_path / "imported")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("imported", "run"))
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)


def test_hub_name_without_a_network_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    file = write_file(tmp_path, "owner/name")
    from huggingface_hub import snapshot_download  # noqa: F401  (the time of its import is not that of the answer)

    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"the hub cannot be reached .*download it where there is a network"):
        read_experiment(file)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("family", ["gidd", "dream"])
def test_published_folder_is_read_without_a_copy(family: str, tmp_path: Path) -> None:
    (write_folder if family == "gidd" else write_language_model)(tmp_path / "source", family)  # type: ignore[operator]
    assert is_published_place(str(tmp_path / "source"))
    config = read_experiment(write_file(tmp_path, f"{tmp_path}/source")).config
    run_import(tmp_path / "source", tmp_path / "imported")
    run = RunFolder(tmp_path / "imported")
    wanted, _ = restore_run(run, run.read_config(), device="cpu")
    assert config.model is not None
    assert config.training is not None
    assert config.training.init_from == str(tmp_path / "source")
    network, _ = restore_run(run, run.read_config(), device="cpu")
    for parameter in network.parameters():
        parameter.data.zero_()
    load_initial_weights(network, config.training.init_from, None, "text")
    state = network.state_dict()
    assert all((state[name] == tensor).all() for name, tensor in wanted.state_dict().items())


@pytest.mark.parametrize("changes", [{"n_blocks": 3}, {"n_heads": 3}, {"model_type": "gpt"}])
def test_published_folder_that_does_not_fit_is_a_problem(changes: dict[str, object], tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm", **changes)
    with pytest.raises(ConfigError) as raised:
        read_experiment(write_file(tmp_path, f"{tmp_path}/source"))
    problem = raised.value.problems[0]
    assert (problem.path, problem.place.line) == ("model.pretrained", 1)
    assert "make a run of it: model-factory import --from" in problem.message
