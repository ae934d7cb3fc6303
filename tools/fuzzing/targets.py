"""Fuzzing targets: tiny runs, checkpoints, corpora with prepared data, and saved connectors, with their readers."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_factory.yaml_config.dump import dump

TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind.\n"
_STACK = {"d_model": 8, "num_layers": 1, "num_heads": 2, "device": "cpu"}
_DECODER = {"model_type": "decoder", "name": "tiny", "decoder": _STACK}
_MDLM = {
    "model_type": "diffusion",
    "name": "tiny",
    "objective": {"type": "mdlm"},
    "backbone": {"type": "performer", **_STACK},
}


@dataclass(frozen=True)
class Target:
    """Fuzzing target: `make` fills the working directory, `files` are patterns of files to mutate, `program` reads them."""

    name: str
    make: Callable[[], None]
    files: tuple[str, ...]
    program: Callable[[], int]


def _train(*more: str) -> int:
    from model_factory.cli.train import main

    return main(["--config", "experiment.yml", "--output", "run", *more])


def _generate() -> int:
    from model_factory.cli.generate import main

    return main(["--run", "run", "--num-samples", "1", "--device", "cpu"])


def _evaluate() -> int:
    from model_factory.cli.evaluate import main

    return main(["--run", "run", "--num-samples", "0", "--max-rows", "2", "--device", "cpu"])


def _load() -> int:
    from model_factory.cli.data import main

    return main(["--config", "data.yml"])


def _make_run(model: dict[str, Any], **more: Any) -> None:
    """Write an experiment config and its corpus, and train for two steps."""
    Path("corpus").mkdir()
    Path("corpus/train.txt").write_text("".join(f"{number} {TEXT}" for number in range(12)))
    Path("corpus/test.txt").write_text(TEXT * 3)
    files = {"train": "corpus/train.txt", "test": "corpus/test.txt"}
    data = {"name": "tiny", "source": "text", "data_files": files, "documents": "line", "sequence_length": 96, **more}
    settings = {"max_steps": 2, "batch_size": 4, "save_steps": 1, "eval_steps": 2, "ema_decay": 0.9}
    generation = {"max_new_tokens": 2} if model is _DECODER else {"steps": 2}
    content = {"model": model, "datasets": [data], "training": settings, "generation": generation}
    Path("experiment.yml").write_text(dump(content))
    if _train() != 0:
        raise RuntimeError("training for two steps failed")


def _make_unfinished_run() -> None:
    _make_run(_DECODER)
    Path("run/model.safetensors").unlink()


def _make_resumable_run() -> None:
    _make_unfinished_run()
    shutil.rmtree("run/checkpoint-2")


def _make_corpora() -> None:
    """Write a corpus in every file format, and prepare each once."""
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]

    Path("corpus").mkdir()
    rows = [{"text": f"{number} {TEXT}", "label": "ab"[number % 2]} for number in range(8)]
    Path("corpus/a.txt").write_text("".join(row["text"] for row in rows))
    Path("corpus/a.json").write_text(json.dumps(rows, indent=1))
    Path("corpus/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open("corpus/a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), "corpus/a.parquet")
    Path("corpus/a.smi").write_text("CCO\nc1ccccc1\nCC(=O)O\nC[C@H](N)O\n")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk("corpus/disk")
    _write_tokenizer(Path("corpus/tokenizer"))
    column = {"column": "text", "label": "label", "classes": ["a", "b"]}
    entries: list[dict[str, Any]] = [
        {"name": "text", "source": "text", "data_files": {"train": "corpus/a.txt"}, "tokenizer": {"type": "bytes"}},
        {"name": "json", "source": "json", "data_files": {"train": "corpus/a.json"}, **column},
        {"name": "lines", "source": "json", "data_files": {"train": "corpus/a.jsonl"}, **column},
        {"name": "csv", "source": "csv", "data_files": {"train": "corpus/a.csv"}, **column},
        {"name": "parquet", "source": "parquet", "data_files": {"train": "corpus/a.parquet"}, **column},
        {
            "name": "smiles",
            "source": "smiles",
            "data_files": {"train": "corpus/a.smi"},
            "tokenizer": {"type": "smiles"},
        },
        {"name": "disk", "source": "disk", "path": "corpus/disk", "column": "text"},
        {"name": "bpe", "source": "text", "data_files": {"train": "corpus/a.txt"}},
        {"name": "own", "source": "text", "data_files": {"train": "corpus/a.txt"}},
    ]
    entries[-2]["tokenizer"] = {"type": "bpe", "vocab_size": 270}
    entries[-1]["tokenizer"] = {"type": "hugging_face", "path": "corpus/tokenizer"}
    Path("data.yml").write_text(dump({"global_config": {"output_dir": "prepared"}, "datasets": entries}))
    if _load() != 0:
        raise RuntimeError("loading the corpora of data.yml failed")


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *sorted(set(TEXT.split()))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)


def _make_connector() -> None:
    from transformers import BertConfig

    from model.latent.connectors.published import BertForLatentConnector

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForLatentConnector(BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)).save_pretrained("connector")


def _read_connector() -> int:
    """Load the connector; print an error on stderr and return 3, like a command."""
    import sys

    from model.checkpoint import CheckpointError
    from model.hub import HubError
    from model.latent.connectors.hugging_face import ConnectorError
    from model.latent.connectors.published import BertForLatentConnector

    try:
        BertForLatentConnector.from_pretrained("connector")
    except (CheckpointError, ConnectorError, HubError) as error:
        print(error, file=sys.stderr)
        return 3
    return 0


_COMMON_FILES = ("run/config.yml", "run/tokenizer/*", "run/environment.json", "run/metrics.jsonl")
_RUN_FILES = (*_COMMON_FILES, "run/model.safetensors")
TARGETS = {
    target.name: target
    for target in (
        Target("run", lambda: _make_run(_DECODER), _RUN_FILES, _generate),
        Target("lengths", lambda: _make_run(_MDLM, rows="whole"), ("run/lengths.json", *_RUN_FILES), _generate),
        Target("checkpoint", _make_unfinished_run, ("run/config.yml", "run/checkpoint-2/*"), _generate),
        Target(
            "resume",
            _make_resumable_run,
            (*_COMMON_FILES, "run/checkpoint-1/*", "run/checkpoint-1/*", "manifests/**/*"),
            lambda: _train("--resume"),
        ),
        Target("evaluate", lambda: _make_run(_DECODER), ("corpus/*", "manifests/**/*"), _evaluate),
        Target("corpora", _make_corpora, ("corpus/**/*", "corpus/**/*", "prepared/**/*"), _load),
        Target("connector", _make_connector, ("connector/*",), _read_connector),
    )
}
