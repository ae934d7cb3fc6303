"""Hostile files: paths outside their folder, deep nesting, huge numbers, lone surrogates."""

import json
import pickle
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.text.table_types import DiskDatasetConfig, JsonDatasetConfig, ParquetDatasetConfig
from data_manager.tokenizers.load import load_tokenizer
from model.hub import HubError, find_weights_problem, load_from_hub
from model_factory.cli.run_command import report_error
from model_factory.evaluation.metrics.judge import load_judge
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.discrete import resolve_sample_length
from model_factory.evaluation.sampling.sample import Request
from model_factory.pages.evaluation_page import _curves
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.checkpoints import read_checkpoint, read_json
from model_factory.training.run.data_hashes import read_lengths
from model_factory.training.run.logs import MetricsLog
from tests.evaluation.untrained_runs import MDLM, make_run, text_data
from tests.test_attacks import pickled
from tests.training.runs import experiment, train

DEEP = "[" * 200_000
BYTES = TokenizerConfig(type="bytes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    path = experiment(folder, max_steps=2, save_steps=1, eval_steps=2)
    assert train("--config", path, "--output", folder / "run") == 0
    (folder / "run" / "model.safetensors").unlink()
    return path, folder / "run"


@pytest.fixture
def copy(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(trained[1], tmp_path / "run")


def disk(folder: Path) -> dict:
    return DatasetManager.load_dataset(DiskDatasetConfig(name="rows", path=str(folder), tokenizer=BYTES))


def test_disk_data_set_cannot_name_outside_files(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["secret one", "secret two"]})
    rows.save_to_disk(str(tmp_path / "outside"))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "parts"))
    rows.save_to_disk(str(tmp_path / "whole"))
    assert len(disk(tmp_path / "parts")["train"]) == len(disk(tmp_path / "whole")["train"]) > 0
    (tmp_path / "parts" / "dataset_dict.json").write_text('{"splits": ["../outside"]}')
    state = json.loads((tmp_path / "whole" / "state.json").read_text())
    (name,) = [one["filename"] for one in state["_data_files"]]
    state["_data_files"] = [{"filename": f"../outside/{name}"}]
    (tmp_path / "whole" / "state.json").write_text(json.dumps(state))
    for folder in ("parts", "whole"):
        with pytest.raises(DataError, match=r"names '\.\./outside.*', which is outside its folder"):
            disk(tmp_path / folder)
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "whole" / "state.json").write_text(json.dumps(state))
    (tmp_path / "whole" / name).unlink()
    (tmp_path / "whole" / name).symlink_to(tmp_path / "outside" / name)
    with pytest.raises(DataError, match="which is outside its folder"):
        disk(tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["rows.json", "environment.json", "checkpoint-2/checkpoint.json", "checkpoint-2/trainer_state.json"]
)
def test_deeply_nested_json_in_run_is_rejected(
    name: str, copy: Path, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    (copy / name).write_text(DEEP)
    if "trainer" in name:
        manifest = json.loads((copy / "checkpoint-2/checkpoint.json").read_text())
        manifest["files"]["trainer_state.json"] = len(DEEP)
        (copy / "checkpoint-2/checkpoint.json").write_text(json.dumps(manifest))
    log = tmp_path / "log"
    assert train("--config", trained[0], "--output", copy, "--resume", log=log) == 3
    assert "nested too deep" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_deeply_nested_json_elsewhere_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{DEEP}\n{{"step": 1, "loss": 2.0}}\n')
    assert MetricsLog(tmp_path / "metrics.jsonl").read() == [{"step": 1, "loss": 2.0}]
    for name in ("vocabulary.json", "lengths.json", "a.json", "b.json"):
        (tmp_path / name).write_text(DEEP if name != "b.json" else f'{{"text": {DEEP}\n')
    with pytest.raises(DataError, match="nested too deep"):
        load_tokenizer(tmp_path)
    with pytest.raises(RunFolderError, match="nested too deep"):
        read_lengths(tmp_path / "lengths.json")
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError, match=f"{name}:1: (not a JSON object|invalid JSON).*nested too deep"):
            rows(JsonDatasetConfig, tmp_path / name)


def rows(kind: type, path: Path, **more: object) -> list:
    config = kind(
        name="rows", data_files={"train": str(path)}, tokenizer=BYTES, rows="whole", sequence_length=64, **more
    )
    tokenizer = DatasetManager.tokenizer(config)
    return [tokenizer.decode(row) for row in DatasetManager.load_dataset(config)["train"]["input_ids"]]


def test_lone_surrogate_and_huge_number_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text('{"text": "good"}\n{"text": "\\ud800"}\n')
    with pytest.raises(DataError, match=r"a\.json:2: contains half a character"):
        rows(JsonDatasetConfig, tmp_path / "a.json")
    assert rows(JsonDatasetConfig, tmp_path / "a.json", on_invalid="skip") == ["good"]
    (tmp_path / "b.json").write_text('{"text": "a", "n": 1%s}\n' % ("0" * 400))
    with pytest.raises(DataError, match=r"b\.json:1: column 'n' holds"):
        rows(JsonDatasetConfig, tmp_path / "b.json", measured=["n"])


def test_parquet_values_that_python_cannot_represent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": data}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([2**62], pa.timestamp("us"))}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        with pytest.raises(DataError, match=f"{name}.parquet: a row after row 0 is unreadable"):
            rows(ParquetDatasetConfig, tmp_path / f"{name}.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="two columns named 'text'"):
        rows(ParquetDatasetConfig, tmp_path / "c.parquet")


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4_000_000},
        {"step": 0},
        {"world": 0},
        {"batch_rows": 0},
        {"files": {"../../../../../../etc/hostname": 1}},
        {"files": {"/etc/hostname": 1}},
        {"files": {"x" * 5000: 1}},
        {"files": {"a\0b": 1}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_checkpoint_manifest_with_impossible_values(change: dict, copy: Path) -> None:
    path = copy / "checkpoint-2" / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunFolderError, match=r"is not a complete checkpoint: checkpoint\.json"):
        read_checkpoint(copy, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"stateful_callbacks": 5},
        {"global_step": "x"},
        {"global_step": 1},
        {"unknown": 1},
        {"max_steps": "many"},
        {"train_batch_size": "x"},
    ],
    ids=str,
)
def test_trainer_state_that_transformers_cannot_load(change: dict, copy: Path) -> None:
    path = copy / "checkpoint-2" / "trainer_state.json"
    read_checkpoint(copy, 2).check_state()
    manifest = json.loads((copy / "checkpoint-2/checkpoint.json").read_text())
    path.write_text(json.dumps(read_json(path) | change))
    manifest["files"]["trainer_state.json"] = path.stat().st_size
    (copy / "checkpoint-2/checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=r"trainer_state\.json"):
        read_checkpoint(copy, 2).check_state()


@pytest.mark.parametrize(
    "counts", ['{"5": Infinity}', '{"5": 1%s}' % ("0" * 400), '{"1%s": 1}' % ("0" * 12), '{"5": -1}']
)
def test_length_counts_out_of_range_are_rejected(counts: str, tmp_path: Path) -> None:
    (tmp_path / "lengths.json").write_text(f'{{"counts": {counts}}}')
    with pytest.raises(RunFolderError, match="remove it"):
        read_lengths(tmp_path / "lengths.json")


def test_metrics_out_of_range_are_not_plotted(tmp_path: Path) -> None:
    path, huge = tmp_path / "metrics.jsonl", "1" + "0" * 400
    keys = "".join(f', "eval_k{number}": 1' for number in range(300))
    path.write_text(
        f'{{"step": {huge}, "loss": 1}}\n{{"step": 1, "loss": {huge}, "eval_a": NaN, "eval_\\u0000": 1{keys}}}\n'
        '{"step": 2, "loss": 2.5, "eval_$\\\\foo{$": 3}\n'
    )
    entries = MetricsLog(path).read()
    assert [entry["step"] for entry in entries] == [1, 2]
    assert "loss" not in entries[0]
    sections = list(_curves(entries, []))
    assert len(sections) < 30
    assert not any("foo" in section.title or "\0" in section.title for section in sections)


@pytest.mark.parametrize(
    "content", ['{"type": "smiles", "tokens": [1, 2]}', '{"type": "smiles", "tokens": ["\\ud800"]}', '{"type": "smiles", "tokens": {"a": 1}}',
                '{"type": "characters", "characters": {"a": 1}}', '{"type": "characters", "characters": [1]}', '{"type": "characters", "characters": ["\\ud800"]}'],
)  # fmt: skip
def test_invalid_vocabularies_are_rejected(content: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(DataError, match=r"vocabulary\.json is not a valid tokenizer file"):
        load_tokenizer(tmp_path)


def test_judge_pickle_is_not_loaded(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    mark = tmp_path / "mark"
    (tmp_path / "pytorch_model.bin").write_bytes(pickled(mark))
    (tmp_path / "vocab.json").write_text(json.dumps({chr(33 + index): index for index in range(90)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(RunFolderError, match="safetensors"):
        load_judge(tmp_path)
    assert not mark.exists()
    pickle.loads(pickled(mark))  # the same file runs its payload if it is loaded
    assert mark.exists()


@pytest.mark.parametrize("listed", ["pytorch_model.bin", "../model.safetensors", 5])
def test_weight_index_may_only_name_local_safetensors(listed: object, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    folder, mark = tmp_path / "model", tmp_path / "mark"
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="8KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert find_weights_problem(folder) is None
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], listed)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "pytorch_model.bin").write_bytes(pickled(mark))
    with pytest.raises(HubError, match="index"):
        load_from_hub(GPT2LMHeadModel.from_pretrained, str(folder), "model", "remedy", use_safetensors=True)
    with pytest.raises(RunFolderError, match="index"):
        load_judge(folder)
    assert not mark.exists()


def test_config_may_only_name_safetensors(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(held | {"transformers_weights": "adapter_model.bin"}))
    assert "names weights 'adapter_model.bin'" in str(find_weights_problem(tmp_path))


def test_sample_length_over_limit_is_rejected(tmp_path: Path) -> None:
    data = text_data(tmp_path)
    run = open_run(make_run(tmp_path, MDLM, data, "diffusion"))
    with pytest.raises(UnfitError, match="samples of 10,000,001 tokens were requested, and the maximum is 10,000,000"):
        resolve_sample_length(run, Request(length=10_000_001))


def test_out_of_memory_error_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for size in ((1 << 50,), (1 << 40, 1 << 40)):
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(size)
        assert report_error(caught.value, "runs/a", as_json=False) == 4
        err = capsys.readouterr().err
        assert "there is not enough memory for this" in err
        assert "Traceback" not in err
