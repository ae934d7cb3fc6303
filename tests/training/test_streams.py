"""Streams: a run on a stream equals itself when it is killed, resumed, and split over workers and processes."""

import json
import shutil

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.rows.token_stream import Bookmark
from model_factory.training.run.checkpoints import list_checkpoint_steps
from model_factory.training.stream import StreamOrder
from tests.training.runs import DECODER, bytes_of, experiment, losses, train, train_by_two, weights

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "and",
    "the",
    "dog",
    "does",
    "not",
    "mind",
]


def lines(shard, count=9):
    return [" ".join(WORDS[: 1 + (shard * 7 + number) % 13]) + f" {shard}.{number}" for number in range(count)]


def write_shards(folder, kind, shards=3):
    """Write shards of lines and return the entry that streams them."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        found = lines(shard)
        if kind == "text":
            (folder / f"{shard}.txt").write_text("\n".join(found) + "\n")
        elif kind == "json":
            (folder / f"{shard}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in found))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": found}), folder / f"{shard}.parquet")
    ending = {"text": "txt", "json": "jsonl", "parquet": "parquet"}[kind]
    (folder / "valid").mkdir(exist_ok=True)
    shutil.copy(folder / f"0.{ending}", folder / "valid")
    files = {"train": str(folder / f"*.{ending}"), "validation": str(folder / "valid" / f"*.{ending}")}
    more = {"documents": "line"} if kind == "text" else {}
    layout = {"rows": "packed", "sequence_length": 16, "tokenizer": {"type": "bytes"}}
    return {
        "name": "shards",
        "source": kind,
        "data_files": files,
        "streaming": True,
        "shuffle_buffer": 20,
        **layout,
        **more,
    }


def stream(folder, kind="text", **more):
    entry = write_shards(folder, kind) | more
    path = folder / "data.json"
    path.write_text(json.dumps({"datasets": [entry]}))
    return DatasetManager.open_streams(parse_dataset_configs(path)[0])["train"]


def ids(found, count):
    return [tuple(row["input_ids"].tolist()) for row, _ in [next(found) for _ in range(count)]]


@pytest.mark.parametrize("layout", [{"rows": "packed"}, {"rows": "cut"}, {"rows": "whole", "sequence_length": None}])
def test_stream_continues_from_each_position(layout, tmp_path):
    rows = stream(tmp_path, **layout)
    found = StreamOrder(rows, 7, Bookmark()).rows(0)
    whole = [next(found) for _ in range(300)]
    for position in (0, 1, 19, 20, 21, 40, 133, 200):
        mark = whole[max(position - 1, 0)][1]
        mark = Bookmark.from_dict(json.loads(json.dumps(mark.as_dict())))
        again = ids(StreamOrder(rows, 7, mark).rows(position), 300 - position)
        assert again == [tuple(row["input_ids"].tolist()) for row, _ in whole[position:]], position


def test_epoch_of_stream_has_each_row_once(tmp_path):
    rows = stream(tmp_path, rows="whole", sequence_length=None, shuffle_buffer=9)
    found = StreamOrder(rows, 7, Bookmark()).rows(0)
    epochs = [ids(found, 27) for _ in range(2)]
    once = sorted(tuple(row["input_ids"].tolist()) for row in rows)
    assert sorted(epochs[0]) == sorted(epochs[1]) == once
    assert len(set(once)) == 27
    assert epochs[0] != epochs[1]


def test_table_of_stream_equals_prepared_rows(tmp_path):
    rows = stream(tmp_path, rows="cut")
    table = DatasetManager.load_dataset(rows.config.model_copy(update={"streaming": False}))["train"]
    assert rows.head(None)["input_ids"][:] == table["input_ids"][:]


@pytest.fixture(scope="module", params=["text", "json", "parquet"])
def whole(request, tmp_path_factory):
    """Train on a stream for two epochs without interruption."""
    folder = tmp_path_factory.mktemp(request.param)
    entry = write_shards(folder, request.param)
    path = experiment(folder, datasets=[entry], max_steps=30, eval_steps=15, save_steps=1, max_eval_samples=9)
    log = folder / "log"
    assert train("--config", path, "--output", folder / "run", log=log) == 0, log.read_text()
    return folder


def resume_from(whole, run, step, *options):
    """Resume a copy of a run from the checkpoint of a step."""
    shutil.copytree(whole / "run", run)
    (run / "model.safetensors").unlink()
    for later in list_checkpoint_steps(run):
        if later > step:
            shutil.rmtree(run / f"checkpoint-{later}")
    log = run.parent / "log"
    assert train("--config", whole / "experiment.yml", "--output", run, "--resume", *options, log=log) == 0, (
        log.read_text()
    )


@pytest.mark.parametrize(("step", "workers"), [(29, 2), (11, 0)])
def test_resumed_stream_is_bit_exact(whole, step, workers, tmp_path):
    resume_from(whole, tmp_path / "run", step, "--set", f"training.dataloader_num_workers={workers}")
    assert bytes_of(tmp_path / "run") == bytes_of(whole / "run")
    assert losses(tmp_path / "run") == losses(whole / "run")


def test_stream_by_two_processes_equals_one(tmp_path):
    entry = write_shards(tmp_path, "text")
    model = {"model_type": "decoder", "decoder": {**DECODER, "dropout": 0.0}}
    path = experiment(tmp_path, datasets=[entry], model=model, learning_rate=1e-2)
    log, one, two = tmp_path / "log", tmp_path / "one", tmp_path / "two"
    assert train("--config", path, "--output", one, log=log) == 0, log.read_text()
    by_two = ("--set", "training.batch_size=2", "--set", "training.dataloader_num_workers=1")
    assert train_by_two("--config", path, "--output", two, *by_two, log=log) == [0, 0], log.read_text()
    assert losses(two) == pytest.approx(losses(one), abs=1e-4, rel=0)
    first, second = weights(two), weights(one)
    assert max(float((first[name] - second[name]).abs().max()) for name in second) < 1e-4
