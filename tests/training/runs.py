"""Tiny experiments, and training processes forked from a server that has imported torch and transformers once."""

import json
import multiprocessing
import os
import resource
import socket
import sys
import time
from pathlib import Path

from model_factory.yaml_config.dump import dump
from tests.processes import die_with_parent
from tests.processes import wait_for as wait_for

TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind at all.\n"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.preload"])
FILE_SIZE = "TESTS_FILE_SIZE"
"""Environment variable: largest size of a file that the process can write, to simulate a full disk. [bytes]"""
NO_READER = "TESTS_NO_READER"
"""Environment variable: set if the output goes to a pipe whose reader has ended."""
CLOCK = "TESTS_CLOCK"
"""Environment variable: jump of the wall clock, back or forth, at every tenth reading. [seconds]"""
DECODER = {"d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1, "device": "cpu"}


def experiment(folder: Path, *, model: dict | None = None, datasets: list | None = None, **training) -> Path:
    """Write `experiment.yml` to `folder`, with a tiny decoder of characters or another model."""
    folder.mkdir(parents=True, exist_ok=True)
    if datasets is None:
        (folder / "train.txt").write_text("".join(f"{number} {TEXT}" for number in range(12)))
        (folder / "valid.txt").write_text(TEXT * 3)
        files = {"train": str(folder / "train.txt"), "validation": str(folder / "valid.txt")}
        datasets = [text("tiny", files, sequence_length=24)]
    settings = {"max_steps": 6, "batch_size": 4, "eval_steps": 3, "save_steps": 2, "logging_steps": 1, **training}
    content = {
        "model": model or {"model_type": "decoder", "name": "tiny", "decoder": DECODER},
        "datasets": datasets,
        "training": settings,
        "generation": {"num_samples": 2, "max_new_tokens": 8},
    }
    path = folder / "experiment.yml"
    path.write_text(dump(content))
    return path


def text(name: str, files: dict, **more) -> dict:
    """Return a data set of local text files."""
    return {"name": name, "source": "text", "data_files": files, **more}


def seq2seq(folder: Path) -> dict:
    """Return model and data of a tiny translator with sentences of many lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(TEXT.split()[: 2 + number % 9]) + f" {number}" for number in range(40)]
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    (folder / "b.txt").write_text("\n".join(line[::-1] for line in lines) + "\n")
    pair = {"source": str(folder / "a.txt"), "target": str(folder / "b.txt")}
    side = {**DECODER, "dropout": 0.0}
    return {
        "model": {"model_type": "encoder_decoder", "name": "tiny_pair", "encoder": side, "decoder": side},
        "datasets": [text("pairs", {"train": pair, "validation": pair})],
    }


def start(*argv: object, environment: dict | None = None, log: Path | None = None):
    """Start a process that runs `train.py` with these arguments."""
    process = CONTEXT.Process(target=_train, args=([str(word) for word in argv], environment or {}, log))
    process.start()
    return process


def train(*argv: object, environment: dict | None = None, log: Path | None = None) -> int:
    """Run `train.py` in a separate process and return its exit code."""
    process = start(*argv, environment=environment, log=log)
    process.join()
    return process.exitcode


def train_by_two(*argv: object, log: Path | None = None) -> list[int]:
    """Run `train.py` in two processes, as torchrun does, and return their exit codes."""
    processes = start_two(*argv, log=log)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def start_two(*argv: object, log: Path | None = None) -> list:
    """Start two processes that run `train.py` together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [start(*argv, environment=environment, log=log) for environment in ranks]


def _train(argv: list[str], environment: dict, log: Path | None) -> None:
    die_with_parent()
    os.environ.update(environment)
    if log is not None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
    if NO_READER in environment:
        reader, writer = os.pipe()
        os.close(reader)
        sys.stdout, sys.stderr = (os.fdopen(os.dup2(writer, number), "w") for number in (1, 2))
    if FILE_SIZE in environment:
        limit = int(environment[FILE_SIZE])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if CLOCK in environment:
        _let_clock_jump(float(environment[CLOCK]))
    sys.argv = ["train.py", *argv]
    from train import main

    sys.exit(main(argv))


def _let_clock_jump(seconds: float) -> None:
    real, looks = time.time, iter(range(2**31))

    def jumping() -> float:
        return real() + seconds * (next(looks) // 10 % 2)

    time.time = jumping
    time.time_ns = lambda: int(jumping() * 1e9)


def metrics(run: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path, key: str = "loss") -> dict[int, float]:
    """Return losses by step."""
    return {entry["step"]: entry[key] for entry in metrics(run) if key in entry}


def weights(run: Path):
    """Load the weights of a finished run."""
    from safetensors.torch import load_file

    return load_file(run / "model.safetensors")


def bytes_of(run: Path) -> bytes:
    """Return the bytes of the weights file of a finished run."""
    return (run / "model.safetensors").read_bytes()
