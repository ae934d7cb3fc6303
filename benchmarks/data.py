"""Measure data preparation, from text files to batches: speed, memory and start-up time.

    python -m benchmarks.data [--part packing] [--text FILE] [--megabytes 8] [--rounds 3]

Four parts. packing: tokens a second of tokenising and packing, against `datasets.map` with the same tokenizer and the
usual two hand-written functions (tokenise; concatenate and split). batches: tokens a second of batches of characters,
against a training step of a model of four million parameters on as many cores. memory: the peak of a process that
prepares a text, and one ten times as long. start: seconds from a new process to its first batch of prepared data, of
the long text and of a speech corpus with as many utterances as mini LibriSpeech, each at three speeds. Without --text
the text is Python's documentation, with lines shuffled and repeated.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 256
VOCABULARY = 8000
UTTERANCES = 2600


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen parts and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this part; may be repeated")
    parser.add_argument("--text", metavar="FILE", type=Path, help="text to repeat (default: Python's documentation)")
    parser.add_argument("--megabytes", type=int, default=8, help="size of the text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median is reported")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "CONFIG"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        return CHILDREN[args.child[0]](args.child[1])
    folder = Path(tempfile.mkdtemp(prefix="data-benchmark-"))
    try:
        write_text(folder / "text.txt", args.megabytes << 20, args.text)
        write_text(folder / "long.txt", args.megabytes * 10 << 20, args.text)
        rows = []
        for row in chain.from_iterable(PARTS[part](folder, args.rounds) for part in args.part or PARTS):
            print("  ".join(row), file=sys.stderr, flush=True)
            rows.append(row)
    finally:
        shutil.rmtree(folder)
    print_table([("what", "ours", "beside it", "ratio", "goal"), *rows])
    return 0


def write_text(path: Path, size: int, source: Path | None) -> None:
    """Write about `size` bytes: the lines of `source` in random orders, repeatedly."""
    if source is None:
        from pydoc_data.topics import topics

        lines = [line for text in topics.values() for line in text.splitlines() if line.strip()]
    else:
        lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < size:
            generator.shuffle(lines)
            file.write("\n".join(lines[: 1 + (size - file.tell()) // 40]) + "\n")


def write_config(folder: Path, name: str, *, num_proc: int = 1, **entry: Any) -> Path:
    """Write a config with one text data set and a separate output folder."""
    settings = {"name": name, "source": "text", "data_files": {"train": "text.txt"}, "sequence_length": LENGTH}
    return write_entry(folder, name, settings | entry, num_proc)


def write_entry(folder: Path, name: str, entry: dict[str, Any], num_proc: int = 1) -> Path:
    """Write a config with one data set whose corpus is in `folder`."""
    path = folder / f"{name}.yml"
    shared = {"corpus_dir": str(folder), "output_dir": str(folder / "out" / name), "num_proc": num_proc}
    path.write_text(yaml.safe_dump({"global_config": shared, "datasets": [entry]}), encoding="utf-8")
    return path


def run_child(what: str, config: Path, **environment: str) -> dict[str, Any]:
    """Run a measurement in a subprocess; return the JSON object on its last line."""
    command = [sys.executable, "-m", "benchmarks.data", "--child", what, str(config)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "STARTED": str(time.time()), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load(path: str) -> tuple[Any, Any]:
    """Load the config of a file and its first split."""
    from data_manager.data_manager import DatasetManager
    from data_manager.parse_data_args import parse_dataset_configs

    (config,) = parse_dataset_configs(path)
    return config, next(iter(DatasetManager.load_dataset(config).values()))


def train_tokenizer(folder: Path) -> Path:
    """Train a BPE tokenizer on the text, if not yet done, and return its folder."""
    entry = {"documents": "line", "rows": "packed", "tokenizer": {"type": "bpe", "vocab_size": VOCABULARY}}
    load(str(write_config(folder, "learnt", **entry)))
    return next((folder / "out" / "learnt" / "learnt").glob("tokenizer-*"))


# tokenising and packing


def packing(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Measure ours from the file to rows on disk, against only the two maps over a loaded table of lines."""
    tokenizer = {"type": "hugging_face", "path": str(train_tokenizer(folder))}
    for processes in (1, 2):
        entry = {"documents": "line", "rows": "packed", "tokenizer": tokenizer, "num_proc": processes}
        config = write_config(folder, "packing", **entry)
        threads = "true" if processes == 1 else "false"
        ours, theirs = [], []
        for _ in range(rounds):
            shutil.rmtree(folder / "out" / "packing", ignore_errors=True)
            ours.append(run_child("prepare", config, TOKENIZERS_PARALLELISM=threads)["rate"])
            theirs.append(run_child("map", config, TOKENIZERS_PARALLELISM=threads)["rate"])
        rates = statistics.median(ours), statistics.median(theirs)
        label = "1 process, threads" if processes == 1 else f"{processes} processes"
        shown = [f"{rate / 1e6:.2f} M tokens/s" for rate in rates]
        yield f"tokenise and pack, {label}", *shown, f"{rates[0] / rates[1]:.2f}", ">= 0.9"


def prepare_child(path: str) -> int:
    """Measure ours: tokens a second from the text file to rows."""
    # imports are not measured, on either side
    import datasets  # noqa: F401
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast  # noqa: F401

    import data_manager.rows.encode
    import data_manager.rows.pack
    import data_manager.rows.prepare  # noqa: F401

    start = time.perf_counter()
    _, data = load(path)
    seconds = time.perf_counter() - start
    return report(rate=_tokens(data) / seconds)


def _tokens(data: Any) -> int:
    from data_manager.rows.lengths import row_lengths

    return int(row_lengths(data)["input_ids"].sum())


def map_child(path: str) -> int:
    """Measure the hand-written form: tokens a second of `datasets.map` over the lines, then over the ids."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    entry, shared = settings["datasets"][0], settings["global_config"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(entry["tokenizer"]["path"]) / "tokenizer.json"))
    processes = shared["num_proc"] if shared["num_proc"] > 1 else None
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        text = str(Path(shared["corpus_dir"]) / "text.txt")
        lines = datasets.load_dataset("text", data_files=text, cache_dir=cache, split="train")

        def tokenise(batch: dict[str, Any]) -> dict[str, Any]:
            return {"input_ids": [[*ids, 2] for ids in tokenizer(batch["text"], add_special_tokens=False)["input_ids"]]}

        def group(batch: dict[str, Any]) -> dict[str, Any]:
            joined = [token for ids in batch["input_ids"] for token in ids]
            return {"input_ids": [joined[i : i + LENGTH] for i in range(0, len(joined), LENGTH)]}

        start = time.perf_counter()
        ids = lines.map(tokenise, batched=True, remove_columns=["text"], num_proc=processes)
        data = ids.map(group, batched=True, num_proc=processes)
        seconds = time.perf_counter() - start
        return report(rate=_tokens(data) / seconds)


# batches against a training step


def batches(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Measure batches of 32 rows of characters, against a training step on them."""
    config = write_config(folder, "characters", tokenizer={"type": "characters"})
    found = run_child("batches", config)
    shown = [f"{found[name] / 1e3:,.0f} k tokens/s" for name in ("loaded", "trained")]
    label = f"batches of characters; step of {found['parameters'] / 1e6:.1f} M parameters"
    yield label, *shown, f"{found['loaded'] / found['trained']:.0f}", "> 20"


def batches_child(path: str) -> int:
    """Measure tokens a second of the loader, and of forward, backward and optimiser step."""
    import torch

    from data_manager.data_manager import DatasetManager
    from model.model_factory import create_model
    from model.model_types import DecoderConfig, ModelConfig
    from model.types import PerformerParams

    torch.set_num_threads(2)
    config, data = load(path)
    loader = DatasetManager.create_dataloader(data, config, batch_size=32, shuffle=True)
    loaded = rate_of(lambda: (batch["input_ids"].numel() for batch in loader), 3.0)
    tokenizer = DatasetManager.tokenizer(config)
    assert tokenizer is not None
    params = PerformerParams(
        d_model=256, num_layers=5, num_heads=8, d_ff=4, dropout=0.0, attention_type="softmax",
        vocab_size=tokenizer.vocab_size, max_length=LENGTH,
    )  # fmt: skip
    model = create_model(ModelConfig(model_type="decoder", name="decoder", config=DecoderConfig(params=params)))
    optimiser = torch.optim.AdamW(model.parameters())

    def steps() -> Any:
        for batch in loader:
            ids = batch["input_ids"]
            logits = model(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield ids.numel()

    trained = rate_of(steps, 10.0)
    return report(loaded=loaded, trained=trained, parameters=sum(p.numel() for p in model.parameters()))


def rate_of(run: Callable[[], Any], seconds: float) -> float:
    """Measure tokens a second of an iteration that yields token counts; the first is not counted."""
    counts = iter(run())
    next(counts)
    start, total = time.perf_counter(), 0
    for count in counts:
        total += count
        if time.perf_counter() - start > seconds:
            break
    return total / (time.perf_counter() - start)


# memory and second start


def memory(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Measure the peak memory of a process that trains a tokenizer on a text, tokenises and packs it."""
    for kind in ({"type": "characters"}, {"type": "bpe", "vocab_size": VOCABULARY}):
        peaks = []
        for file in ("text.txt", "long.txt"):
            name = f"{kind['type']}-{Path(file).stem}"
            entry = {"data_files": {"train": file}, "rows": "packed", "tokenizer": kind}
            peaks.append(run_child("memory", write_config(folder, name, **entry))["megabytes"])
        shown = [f"{peak:,.0f} MB" for peak in reversed(peaks)]
        label = f"peak memory, {kind['type']}: a text ten times as long; the text"
        yield label, *shown, f"{peaks[1] / peaks[0]:.2f}", "flat"


def memory_child(path: str) -> int:
    """Measure the peak of anonymous memory in MB; mapped file pages, which can be reclaimed, do not count."""
    peak = [0.0]

    def watch() -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    load(path)
    return report(megabytes=peak[0])


def second_start(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Measure the time from the start of Python to the first batch of prepared data."""
    for name, config in (text_starts(folder) | speech_starts(folder)).items():
        run_child("start", config)
        runs = [run_child("start", config) for _ in range(rounds)]
        seconds, cpu = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu"))
        yield f"second start to the first batch, {name}", f"{seconds:.2f} s", f"{cpu:.2f} s of CPU", "", "< 3 s"


def text_starts(folder: Path) -> dict[str, Path]:
    """Write a config for each kind of tokenizer, over the long text."""
    kinds = {
        "characters": {"type": "characters"},
        "bpe": {"type": "bpe", "vocab_size": VOCABULARY},
        "hugging_face": {"type": "hugging_face", "path": str(train_tokenizer(folder))},
    }
    files = {"train": "long.txt"}
    return {name: write_config(folder, f"start-{name}", data_files=files, tokenizer=kinds[name]) for name in kinds}


def speech_starts(folder: Path) -> dict[str, Path]:
    """Write a config for features computed on the fly and one for stored features, over short utterances."""
    from tests.data_manager.corpora import librispeech_part

    texts = {f"UTTERANCE {index}": 0.3 + index % 20 / 100 for index in range(UTTERANCES)}
    librispeech_part(folder / "librispeech", "train-clean-5", texts)
    entry = {"name": "librispeech", "speed_perturbation": {"factors": [0.9, 1.1]}, "loading": {"max_duration": 30}}
    entry["tokenizer"] = {"type": "characters"}
    kinds = {"speech on the fly": "on_the_fly", "speech stored": "lilcom_chunky"}
    return {
        name: write_entry(folder, storage, entry | {"features": {"storage": storage}})
        for name, storage in kinds.items()
    }


def start_child(path: str) -> int:
    """Measure the time to the first batch."""
    from data_manager.data_manager import DatasetManager

    config, data = load(path)
    batch = next(iter(DatasetManager.create_dataloader(data, config, batch_size=32, shuffle=True)))
    seconds = time.time() - float(os.environ["STARTED"])
    return report(rows=len(next(iter(batch.values()))), seconds=seconds, cpu=time.process_time())


def report(**found: float) -> int:
    """Print the figures of a child process as JSON."""
    print(json.dumps(found))
    return 0


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


PARTS: dict[str, Callable[[Path, int], Iterator[tuple[str, ...]]]] = {
    "packing": packing,
    "batches": batches,
    "memory": memory,
    "start": second_start,
}
CHILDREN: dict[str, Callable[[str], int]] = {
    "prepare": prepare_child,
    "map": map_child,
    "batches": batches_child,
    "memory": memory_child,
    "start": start_child,
}

if __name__ == "__main__":
    sys.exit(main())
