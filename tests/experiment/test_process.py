"""Processes of commands: Ctrl-C at any moment, and output that cannot be written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import NO_READER, experiment, losses, train

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT = """
import builtins, os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a job that a shell runs in the background
script, name, *sys.argv[1:] = sys.argv[1:]
usual = builtins.__import__
def importing(module, *words):
    if module == name:
        builtins.__import__ = usual
        usual("importlib").import_module("tests.experiment.interrupting")
    return usual(module, *words)
builtins.__import__ = importing
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""
"""Program that runs a script and interrupts itself where the module `name` is imported."""


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("script", "module", "words"),
    [
        ("train.py", "model_factory.cli.options", "interrupted"),
        ("train.py", "torch", "runs/none: interrupted; no checkpoint was written yet; it starts from scratch"),
        ("generate.py", "argparse", "interrupted"),
        ("evaluate.py", "torch", "runs/none: interrupted"),
        ("parse_args.py", "pydantic", "interrupted"),
    ],
)
def test_interrupt_during_imports_has_no_traceback(script: str, module: str, words: str, tmp_path: Path) -> None:
    path = experiment(tmp_path)
    options = {"train.py": ["--config", path, "--output", "runs/none"], "parse_args.py": ["--config", path]}
    done = run("-c", INTERRUPT, script, module, *options.get(script, ["--run", "runs/none"]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"\n{words}\n")


@pytest.mark.parametrize("output", ["full", "gone"])
def test_training_goes_on_without_its_output(output: str, tmp_path: Path) -> None:
    path, folder = experiment(tmp_path, max_steps=3), tmp_path / "run"
    words = ("--config", path, "--output", folder)
    if output == "full":
        assert train(*words, log=Path("/dev/full")) == 0
    else:
        assert train(*words, environment={NO_READER: "1"}) == 0
    assert list(losses(folder)) == [1, 2, 3]
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(streams: str) -> None:
    words = f"exec {sys.executable} parse_args.py --config configs/encoder_model.yml {streams}"
    done = subprocess.run(["sh", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [["--schema"], ["--config", "configs/encoder_model.yml", "--print-config"], ["--help"]]
)
def test_output_on_a_full_disk_has_no_traceback(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "parse_args.py", *words],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr in ("", "the output cannot be written: No space left on device\n")
    assert done.returncode == (0 if words == ["--help"] else 4)


def test_interrupt_through_a_closed_pipe_exits_with_130() -> None:
    code = (
        "import argparse, sys\nfrom model_factory.cli.run_command import run_verb\n"
        "def work():\n    print('half a line', end='')\n    raise KeyboardInterrupt\n"
        "sys.exit(run_verb(argparse.Namespace(overrides=[], plugin=[]), sys.exit, work))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (130, b"\ninterrupted\n")


def test_nohup_keeps_ignoring_sighup() -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from model_factory.training.run.signals import GracePeriod\n"
        "with GracePeriod() as grace:\n    os.kill(os.getpid(), signal.SIGHUP)\n    print(grace.received)\n"
        "    os.close(2)\n    os.kill(os.getpid(), signal.SIGTERM)\n    print(grace.received.name)"
    )
    assert run("-c", code).stdout == "None\nSIGTERM\n"
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
