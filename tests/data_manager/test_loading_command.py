"""`python -m data_manager.data_manager`: a table, or what is wrong, and the exit code."""

import subprocess
import sys
from pathlib import Path

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.registry import SOURCES, register_source
from data_manager.report import main

ROOT = Path(__file__).resolve().parents[2]


def run(capsys, path, *options):
    code = main(["--config", str(path), *options])
    return code, *capsys.readouterr()


def test_table(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abc" * 10)
    path = tmp_path / "x.yml"
    path.write_text(
        f"global_config: {{corpus_dir: {tmp_path}}}\n"
        "datasets:\n  - {name: tiny, source: text, data_files: {train: a.txt}, sequence_length: 16}\n"
    )
    code, out, err = run(capsys, path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "data set  split  size    kind  lengths (least, mean, most)   tokenizer",
        "--------  -----  ------  ----  ----------------------------  -----------------",
        "tiny      train  2 rows  text  15, 16, 16 tokens, 31 in all  characters, 7 ids",
    ]
    assert run(capsys, path, "--set", "datasets.0.tokenizer.type=bytes")[1].count("bytes, 259 ids") == 1


def test_exit_codes(tmp_path, capsys):
    path = tmp_path / "x.yml"
    assert run(capsys, path)[0] == 3
    path.write_text("datasets:\n  - {name: tiny, source: txt}\n")
    code, out, err = run(capsys, path)
    assert (code, out) == (1, "")
    assert "did you mean 'text'" in err
    path.write_text(
        "datasets:\n  - {name: docs, source: embedded}\n  - {name: tiny, source: text, data_files: {train: no.txt}}\n"
    )
    code, out, err = run(capsys, path)
    assert code == 4
    assert "'no.txt' is not there" in err
    assert out.count("docs") == 3


def test_as_a_module(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("datasets: [{name: docs, source: embedded}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "data_manager.data_manager", "--config", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "validation" in done.stdout


def test_a_source_of_ones_own():
    class Squares(DatasetConfig):
        source: str = "squares"
        count: int = 3

    @register_source("squares", config=Squares)
    def load_squares(config):
        import datasets

        return {"train": datasets.Dataset.from_dict({"input_ids": [[n, n * n] for n in range(config.count)]})}

    try:
        config = Squares(name="mine", count=2)
        data = DatasetManager.load_datasets([config])["mine"]["train"]
        (batch,) = DatasetManager.create_dataloader(data, config, batch_size=5)
        assert batch["input_ids"].tolist() == [[0, 0], [1, 1]]
        assert DatasetManager.tokenizer(config) is None
    finally:
        SOURCES._entries.pop("squares")
