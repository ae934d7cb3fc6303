"""Streams: a run on a stream equals itself when it is resumed, and split over workers and processes."""

import json
import shutil

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.rows.collate import TextCollator
from data_manager.rows.token_stream import Bookmark
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train as train_here
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.rows import RowCollator
from model_factory.training.run.checkpoints import list_checkpoint_steps, read_bookmark
from model_factory.training.share import Share
from model_factory.training.stream import StreamBatches, StreamOrder
from parse_args import main as check
from tests.training.runs import DECODER, bytes_of, experiment, losses, train, train_by_two, weights

WORDS = [f"{word}s" for word in range(7, 20)]
STEPS = {"eval_steps": 30, "save_steps": 1, "max_eval_samples": 9}
ENDINGS = {"text": "txt", "json": "jsonl", "parquet": "parquet"}


def lines(shard, count=9):
    return [f"{shard}.{number} " + " ".join(WORDS[: (shard * 7 + number) % 13]) for number in range(count)]


def write_shards(folder, kind="text", shards=3, **more):
    """Write shards of nine lines and return the entry that streams them."""
    for shard in range(shards):
        path, found = folder / f"{shard}.{ENDINGS[kind]}", lines(shard)
        if kind == "text":
            path.write_text("\n".join(found) + "\n")
        elif kind == "json":
            path.write_text("".join(json.dumps({"text": line}) + "\n" for line in found))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": found}), path)
    files = {"train": str(folder / f"*.{ENDINGS[kind]}"), "validation": str(folder / f"0.{ENDINGS[kind]}")}
    layout = {"rows": "packed", "sequence_length": 16, "tokenizer": {"type": "bytes"}, "shuffle_buffer": 20}
    lines_only = {"documents": "line"} if kind == "text" else {}
    return {"name": "shards", "source": kind, "data_files": files, "streaming": True, **layout, **lines_only, **more}


def open_stream(folder, **more):
    path = folder / "data.json"
    path.write_text(json.dumps({"datasets": [write_shards(folder, **more)]}))
    return DatasetManager.open_streams(parse_dataset_configs(path)[0])["train"]


def ids(row):
    return tuple(row["input_ids"].tolist())


def order(rows, start=None, **more):
    return StreamOrder(rows, 7, start or Bookmark(), **more)


@pytest.mark.parametrize("layout", [{"rows": "packed"}, {"rows": "cut"}, {"rows": "whole", "sequence_length": None}])
def test_stream_continues_from_each_position(layout, tmp_path):
    rows = open_stream(tmp_path, **layout)
    found = order(rows).rows(0)
    whole = [next(found) for _ in range(160)]
    for position in (0, 1, 19, 20, 21, 40, 133):
        mark = whole[max(position - 1, 0)][1]
        again = order(rows, Bookmark.from_dict(json.loads(json.dumps(mark.as_dict())))).rows(position)
        assert [ids(next(again)[0]) for _ in whole[position:]] == [ids(row) for row, _ in whole[position:]]


@pytest.mark.parametrize(("shards", "workers"), [(3, 2), (1, 2)], ids=["shards", "more workers than shards"])
def test_stream_by_workers_equals_one(shards, workers, tmp_path, monkeypatch):
    monkeypatch.setattr("data_manager.rows.token_stream._BATCH", 60)  # several items in a shard
    rows = open_stream(tmp_path, shards=shards)
    found, by_two = order(rows).rows(0), order(rows, workers=workers).rows(0)
    both = [(next(found), next(by_two)) for _ in range(150)]
    by_two.close()
    assert [ids(one[0]) for one, _ in both] == [ids(other[0]) for _, other in both]
    assert [one[1] for one, _ in both] == [other[1] for _, other in both]
    assert len({(one[1].epoch, one[1].shard, one[1].piece) for one, _ in both}) > 4


def test_processes_share_the_rows_of_one_shard(tmp_path):
    rows = open_stream(tmp_path, shards=1)
    collate = RowCollator(TextCollator(0), 7, 6)

    def ids_of(share):
        batches = StreamBatches(order(rows), collate, share, 2, 9)
        found = [batch["input_ids"].tolist() for batch in batches]
        batches.close()
        return found

    whole = ids_of(Share(6))
    ranks = [ids_of(Share(2, 1, 3, rank)) for rank in range(3)]
    assert [[*first, *second, *third] for first, second, third in zip(*ranks, strict=True)] == whole


def test_epoch_of_stream_has_each_row_once(tmp_path):
    rows = open_stream(tmp_path, rows="whole", sequence_length=None, shuffle_buffer=9)
    found = order(rows).rows(0)
    first, second = ([ids(next(found)[0]) for _ in range(27)] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(map(ids, rows))
    assert len(set(first)) == 27
    assert first != second


def test_first_rows_of_stream_equal_prepared_rows(tmp_path):
    rows = open_stream(tmp_path, rows="cut")
    settings = {"streaming": False, "shuffle_buffer": None}
    table = DatasetManager.load_dataset(rows.config.model_copy(update=settings))["train"]
    assert rows.head(None)["input_ids"][:] == table["input_ids"][:]
    assert rows.head(5)["input_ids"][:] == table["input_ids"][:5]


@pytest.mark.parametrize("workers", [0, 1])
def test_invalid_line_of_stream_is_named(workers, tmp_path):
    rows = open_stream(tmp_path, kind="json")
    path = tmp_path / "1.jsonl"
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"1\.jsonl:10: not a JSON object"):
        list(zip(range(60), order(rows, workers=workers).rows(0), strict=False))


def test_skipped_lines_of_stream_are_logged_once(tmp_path, caplog):
    rows = open_stream(tmp_path, kind="json", on_invalid="skip")
    (tmp_path / "1.jsonl").write_text("{\n" + (tmp_path / "1.jsonl").read_text() + "[]\n")
    found = order(rows).rows(0)
    assert len([next(found) for _ in range(100)]) == 100
    assert [record.message.count("1 skipped") for record in caplog.records] == [1, 1]


def test_stream_without_rows_ends(tmp_path):
    rows = open_stream(tmp_path, rows="whole", sequence_length=3, too_long="skip")
    with pytest.raises(DataError, match="split 'train' has no documents"):
        next(order(rows).rows(0))


@pytest.fixture(scope="module", params=["text", "json", "parquet"])
def whole(request, tmp_path_factory):
    """Train on a stream for almost two epochs without interruption."""
    folder = tmp_path_factory.mktemp(request.param)
    entry = write_shards(folder, request.param)
    path = experiment(folder, datasets=[entry], max_steps=30, save_total_limit=None, **STEPS)
    train_here(read_experiment(path).config, folder / "run")
    return folder


def config_of(whole, *options):
    return read_experiment(whole / "experiment.yml", options).config


def cut_after(whole, run, step):
    """Copy a run as it was when it was killed after the checkpoint of a step."""
    shutil.copytree(whole / "run", run)
    (run / "model.safetensors").unlink()
    for later in list_checkpoint_steps(run):
        if later > step:
            shutil.rmtree(run / f"checkpoint-{later}")
    assert list_checkpoint_steps(run)[-1] == step
    return run


@pytest.mark.parametrize(("step", "workers"), [(26, 2), (11, 0)])
def test_resumed_stream_is_bit_exact(whole, step, workers, tmp_path):
    run = cut_after(whole, tmp_path / "run", step)
    train_here(config_of(whole, f"training.dataloader_num_workers={workers}"), run, resume=True)
    assert bytes_of(run) == bytes_of(whole / "run")
    assert losses(run) == losses(whole / "run")
    assert read_bookmark(run / "checkpoint-30") == read_bookmark(whole / "run" / "checkpoint-30")
    assert read_bookmark(run / "checkpoint-30").epoch > 0


@pytest.mark.parametrize("change", ["size", "time", "one more"])
def test_resume_refuses_changed_files_of_stream(change, tmp_path):
    entry = write_shards(tmp_path)
    path, run = (
        experiment(tmp_path, datasets=[entry | {"data_files": {"train": str(tmp_path / "?.txt")}}]),
        tmp_path / "run",
    )
    train_here(read_experiment(path, ["training.max_steps=2"]).config, run)
    file = tmp_path / "1.txt"
    said = {"size": r"1\.txt has 4 bytes now", "time": r"1\.txt has another time", "one more": "4 now, 3 then"}[change]
    if change == "size":
        file.write_text("new\n")
    elif change == "time":
        file.write_text(file.read_text())
    else:
        shutil.copy(file, tmp_path / "9.txt")
    with pytest.raises(UnfitError, match=said):
        train_here(read_experiment(path).config, run, resume=True)


def test_other_settings_of_stream_begin_it_again(tmp_path):
    path, run = experiment(tmp_path, datasets=[write_shards(tmp_path)], save_steps=2), tmp_path / "run"
    train_here(read_experiment(path).config, run)
    options = ["training.max_steps=8", "datasets.0.shuffle_buffer=10"]
    train_here(read_experiment(path, options).config, run, resume=True)
    begins = json.loads((run / "checkpoint-8" / "checkpoint.json").read_text())
    assert begins["row_offset"] + 6 * begins["batch_rows"] == 0


def test_damaged_bookmark_is_reported(whole, tmp_path):
    run = cut_after(whole, tmp_path / "run", 5)
    for content in ('{"epoch": -1}', '{"epoch":0,"shard":0,"piece":0,"row":900,"rest":[],"starts":[0]}'):
        path = run / "checkpoint-5" / "stream.json"
        path.write_text(content)
        manifest = json.loads((run / "checkpoint-5" / "checkpoint.json").read_text())
        manifest["files"]["stream.json"] = len(content)
        (run / "checkpoint-5" / "checkpoint.json").write_text(json.dumps(manifest))
        with pytest.raises(RunFolderError, match="delete this checkpoint"):
            train_here(config_of(whole), run, resume=True)


def test_stream_by_two_processes_equals_one(tmp_path):
    model = {"model_type": "decoder", "decoder": {**DECODER, "dropout": 0.0}}
    path = experiment(tmp_path, datasets=[write_shards(tmp_path)], model=model, learning_rate=1e-2)
    log, one, two = tmp_path / "log", tmp_path / "one", tmp_path / "two"
    assert train("--config", path, "--output", one, log=log) == 0, log.read_text()
    by_two = ("--set", "training.batch_size=2", "--set", "training.dataloader_num_workers=1")
    assert train_by_two("--config", path, "--output", two, *by_two, log=log) == [0, 0], log.read_text()
    assert losses(two) == pytest.approx(losses(one), abs=1e-4, rel=0)
    first, second = weights(two), weights(one)
    assert max(float((first[name] - second[name]).abs().max()) for name in second) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.num_train_epochs=2"], "the number of steps of an epoch is unknown; set max_steps in its place"),
        (["datasets.0.bucketing=true"], "a stream cannot be bucketed by length"),
    ],
)
def test_settings_that_need_a_count_are_refused(options, message, tmp_path, capsys):
    path = experiment(tmp_path, datasets=[write_shards(tmp_path)])
    assert check(["--config", str(path), *(part for option in options for part in ("--set", option))]) == 1
    assert message in capsys.readouterr().err


def test_stream_of_mixture_and_unknown_classes_are_refused(tmp_path, capsys):
    parts = [{**write_shards(tmp_path), "name": name, "streaming": False, "shuffle_buffer": None} for name in "ab"]
    mixture = {"name": "m", "source": "mixture", "datasets": {"a": 1, "b": 1}, "streaming": True}
    path = experiment(tmp_path, datasets=[*parts, {**mixture, "tokenizer": {"type": "bytes"}}], dataset="m")
    assert check(["--config", str(path)]) == 1
    assert "training reads a stream from one data set, and this is a mixture" in capsys.readouterr().err
    entry = {**write_shards(tmp_path, kind="json", rows="whole"), "label": "class"}
    encoder = {"model_type": "encoder", "encoder": DECODER}
    assert check(["--config", str(experiment(tmp_path, datasets=[entry], model=encoder))]) == 1
    assert "the number of its classes is unknown; set num_labels" in capsys.readouterr().err
