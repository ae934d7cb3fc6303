"""Memory that runs out and disks that are full: said in words, with what is safe and how to go on."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from data_manager.tokenizers.bpe import BpeTokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
from model_factory.cli.run_command import report_error
from model_factory.cli.train_run import _report
from tests.training.runs import FILE_SIZE, experiment, text, train
from tests.training.test_pretrained import pretrained

NO_MEMORY = [
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 10 bytes"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:20])
def test_memory_that_runs_out_is_said_in_words(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(error, Namespace(config="a.yml", output=str(tmp_path / "run"))) == 4
    said = capsys.readouterr().err
    assert said.startswith("a.yml: training failed: there is not enough memory (")
    assert "halve training.batch_size and double training.gradient_accumulation_steps" in said
    assert said.count("\n") == 1
    assert report_error(error, "runs/a", as_json=False) == 4
    assert capsys.readouterr().err.startswith("runs/a: there is not enough memory for this: ")


def test_other_runtime_errors_are_no_lack_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(RuntimeError("shapes differ"), Namespace(config="a.yml", output=str(tmp_path))) == 4
    assert "not enough memory" not in capsys.readouterr().err


def test_full_disk_while_the_tokenizer_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("some words of a text, which has a few letters. " * 300)
    settings = {"type": "bpe", "vocab_size": 400}
    data = text("tiny", {"train": str(tmp_path / "train.txt")}, tokenizer=settings, sequence_length=16)
    path, log = experiment(tmp_path / "e", datasets=[data], max_steps=1, eval_steps=1), tmp_path / "log"
    words = ("--config", path, "--set", f"global_config.output_dir={tmp_path / 'out'}", "--output", tmp_path / "run")
    assert train(*words, log=log, environment={FILE_SIZE: "2000"}) == 4
    assert "cannot be written" in log.read_text()
    assert "File too large" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_tokenizers_raise_os_errors(tmp_path: Path) -> None:
    bpe = BpeTokenizer.learn(iter(["some words of a text"] * 9), 270)
    bpe.save(tmp_path)
    assert BpeTokenizer.load(tmp_path).encode("some words") == bpe.encode("some words")
    fast = HuggingFaceTokenizer.load(pretrained(tmp_path / "gpt2", "gpt2"))
    (tmp_path / "no" / "tokenizer.json").mkdir(parents=True)
    for tokenizer in (bpe, fast):
        with pytest.raises(OSError, match="directory"):
            tokenizer.save(tmp_path / "no")
