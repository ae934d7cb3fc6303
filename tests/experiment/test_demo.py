"""The demo runs the whole pipeline on the corpus that comes with Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import snippets

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "training.max_steps=3",
    "training.warmup_steps=1",
    "training.max_eval_samples=8",
    "generation.max_new_tokens=8",
)


def demo(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "model_factory.cli.demo",
        "--config",
        str(ROOT / "configs" / "full_experiment.yml"),
    ]
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    found = demo(folder, *(part for option in SHORT for part in ("--set", option)))
    assert found.returncode == 0, found.stderr
    return folder, found.stdout


def test_demo_prints_the_tables_of_the_docs(printed: tuple[Path, str]) -> None:
    block = next(snippet.text for snippet in snippets("docs/index.md") if snippet.kind == "text")
    tables, _, rest = block.partition("$ python train.py")
    assert tables.partition("\n")[2] in printed[1]
    assert "evaluate.py" in rest


def test_demo_trains_generates_and_evaluates(printed: tuple[Path, str]) -> None:
    folder, text = printed
    places = [text.index(f"$ python {name}.py") for name in ("train", "generate", "evaluate")]
    assert places == sorted(places)
    assert "--- 2" in text[places[1] : places[2]]
    assert "bits_per_character" in text[places[2] :]
    assert text.rstrip().endswith("runs/demo-1/curves.png")
    assert {"curves.png", "samples.txt", "model.safetensors"} <= {
        p.name for p in (folder / "runs" / "demo-1").iterdir()
    }


def test_demo_checks_options_before_writing(tmp_path: Path) -> None:
    found = demo(tmp_path, "--set", "training.max_step=3")
    assert (found.returncode, found.stdout) == (1, "")
    assert "did you mean 'max_steps'?" in found.stderr
    assert not list(tmp_path.iterdir())
