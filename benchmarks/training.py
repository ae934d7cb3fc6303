"""What a training step costs beside the network's forward and backward, and the engine beside a bare loop.

    python -m benchmarks.training             # share outside forward and backward, tokens a second
    python -m benchmarks.training --kills 20  # kill a run 20 times at random moments and compare its weights

The model is an MDLM of 4 M parameters: hidden 256, 4 layers, 4 heads, length 256, batch 16.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BATCH = 256, 16
FILE = f"""\
model:
  model_type: diffusion
  name: mdlm_4m
  process: {{type: absorbing}}
  schedule: {{type: loglinear}}
  objective: {{type: mdlm}}
  backbone: {{type: ddit, d_model: 256, num_layers: 4, num_heads: 4, dropout: 0.1, device: cpu}}
datasets:
  - {{name: python_docs, source: embedded, tokenizer: {{type: characters}}, sequence_length: {LENGTH}}}
training: {{max_steps: 30, batch_size: {BATCH}, eval_steps: 1000, save_steps: 1000, max_eval_samples: 16}}
generation: {{num_samples: 1, steps: 2}}
"""
STEPS = 600
TINY = f"""\
model:
  model_type: decoder
  decoder: {{d_model: 32, num_layers: 2, num_heads: 2, device: cpu}}
datasets:
  - {{name: python_docs, source: embedded, sequence_length: 64}}
training:
  {{max_steps: {STEPS}, batch_size: 8, eval_steps: 100, save_steps: 10, logging_steps: 5, max_eval_samples: 8,
   ema_decay: 0.99, seed: 3}}
generation: {{num_samples: 1, max_new_tokens: 8}}
"""


class Stopwatch:
    """Seconds inside the network's forward and the backward pass, and of whole steps after the first few."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.inside, self.steps, self.begin = warm_up, 0.0, 0, 0.0

    def timed(self, function: Any) -> Any:
        """`function` with its time counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            found = function(*args, **kwargs)
            if self.steps >= self.warm_up:
                self.inside += time.perf_counter() - start
            return found

        return call

    def step(self) -> None:
        """An optimiser step has ended."""
        self.steps += 1
        if self.steps == self.warm_up:
            self.begin = time.perf_counter()

    def report(self, name: str) -> float:
        """Print and return the share of a step outside forward and backward."""
        seconds, count = time.perf_counter() - self.begin, self.steps - self.warm_up
        share = 1 - self.inside / seconds
        print(
            f"{name:<12} {seconds / count * 1e3:8.1f} ms a step  {count * BATCH * LENGTH / seconds:9,.0f} tokens/s  "
            f"{share:6.1%} outside forward and backward"
        )
        return share


def run_engine(folder: Path, warm_up: int) -> float:
    """The engine with its network and backward timed."""
    from transformers import TrainerCallback

    from parse_args import parse_experiment
    from training import trainer
    from training.engine import train

    watch = Stopwatch(warm_up)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            model.network.network.forward = watch.timed(model.network.network.forward)

    class Timed(trainer.FactoryTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(Clock())
            self.accelerator.backward = watch.timed(self.accelerator.backward)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            return {}

        def _save_checkpoint(self, *_: Any, **__: Any) -> None:
            watch.share = watch.report("engine")  # type: ignore[attr-defined]

    original, trainer.FactoryTrainer = trainer.FactoryTrainer, Timed  # type: ignore[misc]
    try:
        path = folder / "mdlm.yml"
        path.write_text(FILE)
        train(parse_experiment(path), folder / "run")
    finally:
        trainer.FactoryTrainer = original  # type: ignore[misc]
    share: float = watch.share  # type: ignore[attr-defined]
    return share


def run_bare_loop(folder: Path, warm_up: int, steps: int) -> None:
    """The same model, data and optimiser in a loop of PyTorch's own."""
    import torch

    from data_manager.data_manager import DatasetManager
    from experiment.vocabulary import with_vocabulary
    from model.model_factory import create_model
    from parse_args import parse_experiment

    config = with_vocabulary(parse_experiment(folder / "mdlm.yml"))
    assert config.model is not None
    assert config.datasets
    rows = DatasetManager.load_datasets(config.datasets)["python_docs"]["train"]
    loader = DatasetManager.create_dataloader(rows, config.datasets[0], batch_size=BATCH, shuffle=True)
    torch.manual_seed(0)
    model = create_model(config.model).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {torch.get_num_threads()} threads")
    watch = Stopwatch(warm_up)
    model.network.forward = watch.timed(model.network.forward)  # type: ignore[union-attr]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    for batch, _ in zip(loader, range(steps), strict=False):
        loss = model(batch["input_ids"]).loss
        watch.timed(loss.backward)()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        watch.step()
    watch.report("bare loop")


def run_kills(folder: Path, kills: int) -> bool:
    """Whether a run that is killed at random moments ends with the weights of one that is not.

    A moment is a random time after the first step of a session; with 10 steps between checkpoints, most fall between
    two of them, and some into the writing of one, which is counted.
    """
    path = folder / "tiny.yml"
    path.write_text(TINY)
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(path), "--resume", "--output"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run([*command, str(whole)], check=True, **quiet)
    speeds = [entry["steps_per_second"] for entry in _entries(whole) if "steps_per_second" in entry]
    longest = 2 * STEPS / sorted(speeds)[len(speeds) // 2] / kills  # on average, all sessions make the run once
    chance, done, writing = random.Random(time.time_ns()), 0, 0
    while done < kills and not (killed / "model.safetensors").exists():
        process = subprocess.Popen([*command, str(killed)], **quiet)
        before = _sessions(killed)
        while _sessions(killed) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.random() * longest)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            done += 1
        process.wait()
        writing += any(killed.glob(".writing-*"))
        steps = sorted(int(folder.name.partition("-")[2]) for folder in killed.glob("checkpoint-*"))
        print(f"kill {done}: checkpoints {steps}", flush=True)
    subprocess.run([*command, str(killed)], check=True, **quiet)
    files = [(folder / "model.safetensors").read_bytes() for folder in (whole, killed)]
    print(f"{done} kills, {writing} while a checkpoint was written; weights equal bit for bit: {files[0] == files[1]}")
    return files[0] == files[1]


def _entries(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _sessions(run: Path) -> int:
    """How often a run was started."""
    path = run / "environment.json"
    return len(json.loads(path.read_text())["sessions"]) if path.exists() else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill a run N times instead")
    parser.add_argument("--steps", type=int, default=30, help="steps of the bare loop (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        if args.kills:
            return 0 if run_kills(Path(name), args.kills) else 1
        share = run_engine(Path(name), warm_up=5)
        run_bare_loop(Path(name), warm_up=5, steps=args.steps)
        print(f"goal: at most 10% outside; {'met' if share <= 0.1 else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
