"""Start of a run on memory-mapped shards: seconds until its first step is done, and memory, for few and for many rows.

    python -m benchmarks.shards --rows 5000000

It writes made-up shards into a temporary folder and trains a tiny decoder on them for one step, first on a thousand rows to
have everything imported. `added` is the time beyond that of the thousand rows. Memory is the growth of the process's own
(anonymous) memory while batches are drawn; pages of mapped files belong to the page cache.
"""

import argparse
import contextlib
import io
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_manager.data_manager import DatasetManager
from data_manager.rows.collate import TextCollator
from data_manager.rows.shards import SplitWriter, finish_shards, split_folder
from data_manager.text.types import TextDatasetConfig
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.training.engine import train
from model_factory.training.rows import RowCollator, Rows
from model_factory.training.share import Share
from model_factory.training.stream import Data
from model_factory.yaml_config.dump import dump

LENGTH = 16
CONTROL = 64
_PART = 1 << 16


def write(folder: Path, count: int) -> None:
    """Write `count` rows of random bytes, up to LENGTH tokens each."""
    config, rng = TextDatasetConfig(**entry(folder)), np.random.default_rng(0)
    tokenizer = DatasetManager.tokenizer(config.model_copy(update={"shards": None}))
    assert tokenizer is not None
    writer = SplitWriter(split_folder(folder, 0, "train"), ["input_ids"], tokenizer.vocab_size)
    for start in range(0, count, _PART):
        lengths = rng.integers(2, LENGTH + 1, min(_PART, count - start))
        writer.add({"input_ids": rng.integers(0, 256, lengths.sum(), np.int32)}, {"input_ids": lengths})
    finish_shards(folder, config, {"train": writer.close()}, tokenizer)


def entry(folder: Path) -> dict[str, Any]:
    """Return the data set of the shards in a folder."""
    layout = {"documents": "line", "sequence_length": LENGTH, "tokenizer": {"type": "bytes"}}
    return {"name": "made_up", "source": "text", "data_files": {"train": "text.txt"}, "shards": str(folder), **layout}


def experiment(folder: Path) -> ExperimentConfig:
    """Return an experiment of one step on the shards in a folder."""
    decoder = {"d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
    content = {
        "model": {"model_type": "decoder", "name": "tiny", "decoder": decoder},
        "datasets": [entry(folder)],
        "training": {"max_steps": 1, "batch_size": 8, "logging_steps": 1},
    }
    path = folder.with_suffix(".yml")
    path.write_text(dump(content), encoding="utf-8")
    return read_experiment(path).config


def seconds_of_run(folder: Path) -> float:
    """Train for one step and return the seconds."""
    config, start = experiment(folder), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train(config, f"{folder}-run-{time.time_ns()}")
    return time.perf_counter() - start


def megabytes_of_batches(folder: Path, steps: int) -> float:
    """Open shards and draw batches of 64 rows; return the growth of anonymous memory."""
    before = anonymous_megabytes()
    rows = Rows(DatasetManager.load_dataset(TextDatasetConfig(**entry(folder)))["train"])
    share = Share(64)
    for _ in Data(rows, None, RowCollator(TextCollator(0), 0, share.rows), share).loader(0, steps, 0):
        pass
    return anonymous_megabytes() - before


def anonymous_megabytes() -> float:
    """Return the memory of this process that is backed by no file (Linux only)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1e3


def megabytes_of_control() -> float:
    """Return what the meter reads for an array of CONTROL MB, so that a reading of zero means something."""
    before = anonymous_megabytes()
    held = np.ones(CONTROL * 125_000)
    found = anonymous_megabytes() - before
    assert held.nbytes == CONTROL * 1_000_000
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = {count: Path(place) / str(count) for count in (1000, args.rows)}
        for count, folder in folders.items():
            write(folder, count)
        seconds_of_run(folders[1000])
        megabytes_of_batches(folders[1000], args.steps)
        times = {count: min(seconds_of_run(folder) for _ in range(3)) for count, folder in folders.items()}
        size = sum(path.stat().st_size for path in folders[args.rows].rglob("*.npy")) / 1e6
        memory, control = megabytes_of_batches(folders[args.rows], args.steps), megabytes_of_control()
    print(f"{args.rows:,} rows, {size:,.0f} MB of shards")
    print(f"one step: {times[args.rows]:.2f} s, of a thousand rows {times[1000]:.2f} s")
    print(f"added: {times[args.rows] - times[1000]:.2f} s")
    print(f"memory of {args.steps:,} batches of 64 rows: {memory:.1f} MB; an array of {CONTROL} MB: {control:.1f} MB")


if __name__ == "__main__":
    main()
