"""Regression tests for findings of file fuzzing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_manager.documents import Notes
from data_manager.errors import DataError
from data_manager.text.arrow import disk_corpora
from data_manager.text.table_types import DiskDatasetConfig
from model.checkpoint import CheckpointError, read_tensors
from model.latent.connectors.hugging_face import ConnectorError
from model.transformer.generation import GenerationOptions, choose_tokens
from model.transformer.inputs import InputError
from model_factory.training.errors import RunFolderError
from model_factory.training.run.checkpoints import (
    MANIFEST,
    STATE,
    Checkpoint,
    Manifest,
    explain_load_errors,
    read_checkpoint,
)
from model_factory.training.run.environment import read_sessions
from model_factory.training.run.logs import MetricsLog
from model_factory.yaml_config.scalars import resolve_scalar
from tests.data_manager.text_configs import text_config, texts

ROOT = Path(__file__).resolve().parents[2]
MADE = {"step": 1, "world": 1, "batch_rows": 4, "split_rows": 12, "files": {}}


@pytest.mark.parametrize(
    "wrong",
    [{"step": []}, {"world": "1"}, {"batch_rows": -1}, {"split_rows": 2**70}, {"files": []}, {"files": {"a": "b"}}],
)
def test_checkpoint_manifest_with_wrong_types(wrong: dict, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(MADE))
    assert read_checkpoint(tmp_path, 1).manifest == Manifest(**MADE)
    (folder / MANIFEST).write_text(json.dumps(MADE | wrong))
    with pytest.raises(RunFolderError, match=r"checkpoint-1 is not a complete checkpoint: .*checkpoint\.json"):
        read_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("state", [None, {}, {"log_history": 3}, {"log_history": [1]}, {"log_history": [{"a": "b"}]}])
def test_trainer_state_with_wrong_types(state: object, tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(json.dumps(state))
    with pytest.raises(RunFolderError, match=r"trainer_state\.json does not hold the evaluations"):
        Checkpoint(tmp_path, Manifest(**MADE)).history()


@pytest.mark.parametrize("held", [None, {}, {"sessions": None}, []])
def test_environment_json_with_wrong_types(held: object, tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    assert read_sessions(path) == []
    path.write_text(json.dumps(held))
    with pytest.raises(RunFolderError, match=r"environment\.json does not hold a list of sessions"):
        read_sessions(path)


def test_metrics_lines_without_step_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, None, "2", [], 3):
        log.append({"step": step})
    log.drop_after(2)
    assert log.read() == [{"step": 1}]


def test_damaged_torch_state_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rng_state.pth"
    torch.save({"python": "ü" * 40}, path)
    whole = path.read_bytes()
    where = whole.index("ü".encode())
    for damaged in (whole[: len(whole) // 2], whole[:where] + b"\xff" + whole[where + 1 :], b"", b"\x80\x04K"):
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"is damaged|holds more than numbers"), explain_load_errors(tmp_path):
            torch.load(path, weights_only=True)


def test_out_of_memory_is_not_reported_as_damage() -> None:
    with pytest.raises(torch.OutOfMemoryError), explain_load_errors("folder"):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_non_finite_logits_are_rejected(broken: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = broken
    with pytest.raises(InputError, match="the model's logits are not finite"):
        choose_tokens(logits, GenerationOptions(max_new_tokens=1))


def test_missing_or_self_linked_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        read_tensors(path)
    path.symlink_to(path.name)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PAD_ID": 3}, r"connector\.json has an unknown argument 'PAD_ID'"),
        ({"backbone": 3}, r"connector\.json has an unknown argument 'backbone'"),
        ({"latent_size": 2.5}, r"connector\.json has latent_size: 2\.5, which is invalid"),
        ({"latent_size": 2**40}, r"connector\.json has latent_size: \d+, which is invalid"),
        ({"pad_id": "x"}, r"connector\.json has pad_id: 'x', which is invalid"),
        (
            {"connector": "BertForLatentConnector\n"},
            r"connector\.json is not a valid connector.json: connector is 'Bert",
        ),
        ({"connector": None}, r"connector\.json is not a valid connector.json: connector is None"),
    ],
)
def test_connector_json_with_wrong_arguments(change: dict, message: str, tmp_path: Path) -> None:
    from transformers import BertConfig

    from model.latent import BertForLatentConnector

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForLatentConnector(BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)).save_pretrained(tmp_path)
    path = tmp_path / "connector.json"
    BertForLatentConnector.from_pretrained(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConnectorError, match=message):
        BertForLatentConnector.from_pretrained(tmp_path)


def test_connector_with_invalid_model_config(tmp_path: Path) -> None:
    from transformers import BertConfig

    from model.latent import BertForLatentConnector

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForLatentConnector(BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 7}))
    with pytest.raises(ConnectorError, match=r"no model can be built from config\.json: ValueError"):
        BertForLatentConnector.from_pretrained(tmp_path)


def test_arrow_table_with_offsets_out_of_range(tmp_path: Path) -> None:
    import datasets

    texts = [f"text {number} of this table" for number in range(8)]
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": texts})}).save_to_disk(tmp_path / "disk")
    config = DiskDatasetConfig(name="disk", path=str(tmp_path / "disk"), column="text")
    assert [piece.texts[0] for piece in disk_corpora(config)["train"].read(Notes())] == texts
    [table] = (tmp_path / "disk" / "train").glob("*.arrow")
    whole, end = table.read_bytes(), len("".join(texts)).to_bytes(4, "little")
    assert whole.count(end) == 1 or end in whole
    here = whole.rindex(end, 0, whole.index(b"text 0 of"))
    table.write_bytes(whole[:here] + (2**31 - 9).to_bytes(4, "little") + whole[here + 4 :])
    with pytest.raises(DataError, match=r"disk train is corrupt"):
        list(disk_corpora(config)["train"].read(Notes()))


def test_disk_data_set_without_splits(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(DataError, match="contains no splits"):
        disk_corpora(DiskDatasetConfig(name="disk", path=str(tmp_path), column="text"))


def test_hexadecimal_integers_have_digit_limit() -> None:
    assert resolve_scalar("0x" + "f" * 300) == 16**300 - 1
    with pytest.raises(ValueError, match="an integer of more than 400 digits"):
        resolve_scalar("0x" + "f" * 390)


def test_prepared_rows_with_offsets_out_of_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: Arrow aborted the process."""
    import pyarrow as pa

    (tmp_path / "a.txt").write_text("some text\nand more of it\nand the end\n")
    config = text_config(tmp_path, {"train": "a.txt"}, documents="line")
    whole = texts(config)
    [path] = (tmp_path / "out").rglob("rows.arrow")
    content = path.read_bytes()
    [column, *_] = pa.ipc.open_stream(content).read_all().columns
    offsets = column.chunk(0).offsets.to_numpy().astype("<i4")
    assert content.count(offsets.tobytes()) >= 1
    beyond = offsets.copy()
    beyond[1] = 2**30
    path.write_bytes(content.replace(offsets.tobytes(), beyond.tobytes()))
    assert texts(config) == whole
    assert "is created again" in caplog.text


def test_training_starts_where_stderr_has_no_descriptor() -> None:
    """The fuzzer and notebooks replace sys.stderr by an object without a file descriptor."""
    code = """
import contextlib, faulthandler, io
from model_factory.cli.train import main

faulthandler.disable()
with contextlib.redirect_stderr(io.StringIO()) as printed:
    code = main(["--config", "missing.yml", "--output", "run"])
print(code, faulthandler.is_enabled(), "missing.yml" in printed.getvalue())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "True", "True"], done.stdout + done.stderr
