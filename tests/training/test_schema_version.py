"""Schema versions of run files: written to every file, later versions refused, files without a version read."""

import json
import re
import shutil

import pytest

from model.checkpoint import CheckpointError
from model_factory.training.errors import RunFolderError
from model_factory.training.run.checkpoints import read_checkpoint
from model_factory.training.run.data_hashes import read_lengths
from model_factory.training.run.folder import load_run
from tests.training.runs import experiment, text, train

DIFFUSION = {
    "model_type": "diffusion",
    "objective": {"type": "mdlm"},
    "backbone": {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"},
}
LATER = r"schema_version is 7, and this program reads up to 1; update it"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Train a diffusion model over whole documents, which writes every kind of file."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "a.txt").write_text("one line\nand another one\n" * 8)
    data = text("lines", {"train": str(folder / "a.txt")}, documents="line", rows="whole", sequence_length=24)
    assert train("--config", experiment(folder, model=DIFFUSION, datasets=[data]), "--output", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_schema_version_is_in_every_file(written):
    foreign = {"tokenizer.json", "trainer_state.json"}  # written by tokenizers and transformers
    found = {str(path.relative_to(written)) for path in written.rglob("*.json") if path.name not in foreign}
    assert found >= {"lengths.json", "environment.json", "tokenizer/vocabulary.json", "checkpoint-6/checkpoint.json"}
    for name in found:
        assert json.loads((written / name).read_text())["schema_version"] == 1, name
    for line in (written / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["schema_version"] == 1
    assert (written / "config.yml").read_text().startswith("schema_version: 1\n")


def set_version(path, version):
    """Change the schema version of a file; None removes it."""
    if path.suffix == ".yml":
        path.write_text(
            re.sub(r"schema_version: 1\n", f"schema_version: {version}\n" if version else "", path.read_text())
        )
    else:
        content = json.loads(path.read_text())
        content.pop("schema_version")
        path.write_text(json.dumps(content | ({"schema_version": version} if version else {})))


READERS = {
    "config.yml": lambda run: load_run(run),
    "tokenizer/vocabulary.json": lambda run: load_run(run),
    "lengths.json": lambda run: read_lengths(run / "lengths.json"),
    "checkpoint-6/checkpoint.json": lambda run: read_checkpoint(run, 6),
}


@pytest.mark.parametrize("name", READERS)
def test_schema_version_later_than_ours_is_refused(name, copy):
    set_version(copy / name, 7)
    with pytest.raises((RunFolderError, CheckpointError, ValueError), match=LATER) as refused:
        READERS[name](copy)
    assert name.rpartition("/")[2] in str(refused.value)


@pytest.mark.parametrize("name", READERS)
def test_schema_version_may_be_missing(name, written, tmp_path):
    run = shutil.copytree(written, tmp_path / "run")
    set_version(run / name, None)
    READERS[name](run)


def test_lengths_without_schema_version_are_read(tmp_path):
    path = tmp_path / "lengths.json"
    path.write_text('{"3": 2, "5": 1}')
    assert read_lengths(path) == {3: 2, 5: 1}
