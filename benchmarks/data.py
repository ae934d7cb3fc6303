"""Text from files to batches: how fast, in how much memory, and how soon again.

    python -m benchmarks.data [--part packing] [--text FILE] [--megabytes 8] [--rounds 3]

Four parts. packing: tokens a second of tokenising and packing beside `datasets.map` with the same tokenizer and the
usual two functions written by hand (tokenise; join and cut). batches: tokens a second of batches of characters beside
what a training step of a model of four million parameters consumes on as many cores. memory: the peak of a process that
prepares a text, and one ten times as long. start: seconds from a new process to its first batch of what has been
prepared before, of the long text and of a corpus of speech with as many utterances as the small edition of LibriSpeech,
each of them at three speeds.
Without --text the text is that of Python's own documentation, its lines shuffled and repeated.
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
    """Run what is asked for and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this alone; may be repeated")
    parser.add_argument("--text", metavar="FILE", type=Path, help="text to repeat; Python's documentation if left out")
    parser.add_argument("--megabytes", type=int, default=8, help="size of the text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median counts")
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
    """Write about `size` bytes: the lines of `source` in a random order, again and again."""
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
    """A file with one data set of text, its output in a folder of its own."""
    settings = {"name": name, "source": "text", "data_files": {"train": "text.txt"}, "sequence_length": LENGTH}
    return write_entry(folder, name, settings | entry, num_proc)


def write_entry(folder: Path, name: str, entry: dict[str, Any], num_proc: int = 1) -> Path:
    """A file with one data set whose corpus lies in `folder`."""
    path = folder / f"{name}.yml"
    shared = {"corpus_dir": str(folder), "output_dir": str(folder / "out" / name), "num_proc": num_proc}
    path.write_text(yaml.safe_dump({"global_config": shared, "datasets": [entry]}), encoding="utf-8")
    return path


def child(what: str, config: Path, **environment: str) -> dict[str, Any]:
    """What a process of its own finds out: a JSON object on its last line."""
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
    """The config of a file and its first split."""
    from data_manager.data_manager import DatasetManager
    from data_manager.parse_data_args import parse_dataset_configs

    (config,) = parse_dataset_configs(path)
    return config, next(iter(DatasetManager.load_dataset(config).values()))


def learnt_tokenizer(folder: Path) -> Path:
    """The folder of a BPE tokenizer learnt from the text, made at the first call."""
    entry = {"documents": "line", "rows": "packed", "tokenizer": {"type": "bpe", "vocab_size": VOCABULARY}}
    load(str(write_config(folder, "learnt", **entry)))
    return next((folder / "out" / "learnt" / "learnt").glob("tokenizer-*"))


# tokenising and packing


def packing(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Ours from the file to rows on disk; beside it the two maps alone, their table of lines being there already."""
    tokenizer = {"type": "hugging_face", "path": str(learnt_tokenizer(folder))}
    for processes in (1, 2):
        entry = {"documents": "line", "rows": "packed", "tokenizer": tokenizer, "num_proc": processes}
        config = write_config(folder, "packing", **entry)
        threads = "true" if processes == 1 else "false"
        ours, theirs = [], []
        for _ in range(rounds):
            shutil.rmtree(folder / "out" / "packing", ignore_errors=True)
            ours.append(child("prepare", config, TOKENIZERS_PARALLELISM=threads)["rate"])
            theirs.append(child("map", config, TOKENIZERS_PARALLELISM=threads)["rate"])
        rates = statistics.median(ours), statistics.median(theirs)
        label = "1 process, threads" if processes == 1 else f"{processes} processes"
        shown = [f"{rate / 1e6:.2f} M tokens/s" for rate in rates]
        yield f"tokenise and pack, {label}", *shown, f"{rates[0] / rates[1]:.2f}", ">= 0.9"


def prepare_child(path: str) -> int:
    """Ours: tokens a second from the text file to rows."""
    # what is imported is not measured, on either side
    import datasets  # noqa: F401
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast  # noqa: F401

    import data_manager.encoding
    import data_manager.packing
    import data_manager.prepare  # noqa: F401

    start = time.perf_counter()
    _, data = load(path)
    seconds = time.perf_counter() - start
    return report(rate=_tokens(data) / seconds)


def _tokens(data: Any) -> int:
    from data_manager.row_lengths import row_lengths

    return int(row_lengths(data)["input_ids"].sum())


def map_child(path: str) -> int:
    """By hand: `datasets.map` over the lines, then over the ids; tokens a second of the two maps."""
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


# batches beside a training step


def batches(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Batches of 32 rows of characters, and the training step of a model that would read them."""
    config = write_config(folder, "characters", tokenizer={"type": "characters"})
    found = child("batches", config)
    shown = [f"{found[name] / 1e3:,.0f} k tokens/s" for name in ("loaded", "trained")]
    label = f"batches of characters; step of {found['parameters'] / 1e6:.1f} M parameters"
    yield label, *shown, f"{found['loaded'] / found['trained']:.0f}", "> 20"


def batches_child(path: str) -> int:
    """Tokens a second of the loader, and of forward, backward and optimiser step."""
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
    """Tokens a second of an iteration that tells how many it has just dealt with; the first is not counted."""
    numbers = iter(run())
    next(numbers)
    start, count = time.perf_counter(), 0
    for number in numbers:
        count += number
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


# memory, and a second start


def memory(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """The peak of a process that learns a tokenizer from a text, tokenises and packs it."""
    for kind in ({"type": "characters"}, {"type": "bpe", "vocab_size": VOCABULARY}):
        peaks = []
        for file in ("text.txt", "long.txt"):
            name = f"{kind['type']}-{Path(file).stem}"
            entry = {"data_files": {"train": file}, "rows": "packed", "tokenizer": kind}
            peaks.append(child("memory", write_config(folder, name, **entry))["megabytes"])
        shown = [f"{peak:,.0f} MB" for peak in reversed(peaks)]
        label = f"peak memory, {kind['type']}: a text ten times as long; the text"
        yield label, *shown, f"{peaks[1] / peaks[0]:.2f}", "flat"


def memory_child(path: str) -> int:
    """Peak of the memory that is the process's own, in MB: mapped pages of files, which are taken back, do not count."""
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
    """From the start of Python to the first batch, all being prepared."""
    for name, config in (text_starts(folder) | speech_starts(folder)).items():
        child("start", config)
        runs = [child("start", config) for _ in range(rounds)]
        seconds, cpu = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu"))
        yield f"second start to the first batch, {name}", f"{seconds:.2f} s", f"{cpu:.2f} s of CPU", "", "< 3 s"


def text_starts(folder: Path) -> dict[str, Path]:
    """A file for each kind of tokenizer, over the long text."""
    kinds = {
        "characters": {"type": "characters"},
        "bpe": {"type": "bpe", "vocab_size": VOCABULARY},
        "hugging_face": {"type": "hugging_face", "path": str(learnt_tokenizer(folder))},
    }
    files = {"train": "long.txt"}
    return {name: write_config(folder, f"start-{name}", data_files=files, tokenizer=kinds[name]) for name in kinds}


def speech_starts(folder: Path) -> dict[str, Path]:
    """A file for features computed by batch and one for stored features, over a corpus of short utterances."""
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
    """The first batch."""
    from data_manager.data_manager import DatasetManager

    config, data = load(path)
    batch = next(iter(DatasetManager.create_dataloader(data, config, batch_size=32, shuffle=True)))
    seconds = time.time() - float(os.environ["STARTED"])
    return report(rows=len(next(iter(batch.values()))), seconds=seconds, cpu=time.process_time())


def report(**found: float) -> int:
    """Print what a child found."""
    print(json.dumps(found))
    return 0


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as a table of Markdown."""
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
