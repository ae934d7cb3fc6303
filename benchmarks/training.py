"""Measure the overhead of a training step beyond forward and backward, and the engine against a bare loop.

    python -m benchmarks.training             # share outside forward and backward, tokens a second
    python -m benchmarks.training --kills 20  # kill a run 20 times at random times and compare its weights

The model is an MDLM of 4 M parameters: hidden 256, 4 layers, 4 heads, length 256, batch 16.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BATCH = 256, 16
MARK = "network forward or backward"
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
TINY = """\
model:
  model_type: decoder
  decoder: {{d_model: 32, num_layers: 2, num_heads: 2, device: cpu}}
datasets:
  - {{name: python_docs, source: embedded, sequence_length: 64}}
training:
  {{max_steps: {steps}, batch_size: 8, eval_steps: 100, save_steps: 10, logging_steps: 5, max_eval_samples: 8,
   ema_decay: 0.99, seed: 3}}
generation: {{num_samples: 1, max_new_tokens: 8}}
"""


class Stopwatch:
    """Stopwatch of forward and backward passes, and of whole steps after a warm-up."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.inside, self.steps, self.begin, self.share = warm_up, 0.0, 0, 0.0, 0.0

    def timed(self, function: Any) -> Any:
        """Wrap `function` so that its time is counted and marked for the profiler."""
        from torch.profiler import record_function

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            with record_function(MARK):
                found = function(*args, **kwargs)
            if self.steps >= self.warm_up:
                self.inside += time.perf_counter() - start
            return found

        return call

    def step(self) -> None:
        """Count an optimiser step that has ended."""
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


def profiled_share(profile: Any) -> float:
    """Return the share of the profiled steps outside forward and backward."""
    times: dict[str, float] = {}
    for event in profile.events():
        if event.name == MARK or event.name.startswith("ProfilerStep"):
            times[event.name[:8]] = times.get(event.name[:8], 0.0) + event.cpu_time_total
    return 1 - times[MARK[:8]] / times["Profiler"]


def run_engine(folder: Path, warm_up: int, profile: Any = None) -> float:
    """Run the engine with forward and backward timed; return the share outside them, by the profiler if given."""
    from model_factory.training import trainer
    from model_factory.training.engine import train
    from parse_args import parse_experiment

    watch = Stopwatch(warm_up)
    original = trainer.FactoryTrainer
    trainer.FactoryTrainer = timed_trainer(watch, profile)  # type: ignore[misc]
    try:
        path = folder / "mdlm.yml"
        path.write_text(FILE)
        with profile or nullcontext():
            train(parse_experiment(path), folder / ("run" if profile is None else "profiled"))
    finally:
        trainer.FactoryTrainer = original  # type: ignore[misc]
    return watch.share if profile is None else profiled_share(profile)


def timed_trainer(watch: Stopwatch, profile: Any) -> Any:
    """Return a Trainer class with a stopwatch, which is read before the last checkpoint and evaluation."""
    from model_factory.training.trainer import FactoryTrainer

    class Timed(FactoryTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            backbone: Any = self.module.network.network
            backbone.forward = watch.timed(backbone.forward)
            self.accelerator.backward = watch.timed(self.accelerator.backward)

        def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
            watch.step()
            if profile is not None:
                profile.step()
            if self.state.global_step < self.args.max_steps:
                super()._maybe_log_save_evaluate(*args, **kwargs)
            elif not watch.share:
                watch.share = watch.report("engine" if profile is None else "profiled")

    return Timed


def run_bare_loop(folder: Path, warm_up: int, steps: int) -> None:
    """Train the same model, data and optimiser in a plain PyTorch loop."""
    import torch

    from data_manager.data_manager import DatasetManager
    from model.model_factory import create_model
    from model_factory.experiment.build import with_vocabulary
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
    """Return True if a run killed at random times ends with the weights of an uninterrupted one.

    The time of a kill is random between two checkpoints; kills during the writing of a checkpoint are counted.
    """
    path = folder / "tiny.yml"
    path.write_text(TINY.format(steps=45 * kills))
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(path), "--resume", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a small model gains nothing from a second thread
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": ROOT,
        "env": environment,
    }
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run([*command, str(whole)], check=True, **quiet)
    chance, writing = random.Random(time.time_ns()), 0
    for number in range(1, kills + 1):
        process = subprocess.Popen([*command, str(killed)], **quiet)
        wait_for_checkpoints(killed, chance.randint(1, 4), chance.random(), process)
        process.kill()
        ended = process.wait() != -signal.SIGKILL
        writing += any(killed.glob(".writing-*"))
        print(f"kill {number}: checkpoints {_steps(killed)}{' (had ended before)' if ended else ''}", flush=True)
    subprocess.run([*command, str(killed)], check=True, **quiet)
    files = [(folder / "model.safetensors").read_bytes() for folder in (whole, killed)]
    print(f"{kills} kills, {writing} while a checkpoint was written; weights equal bit for bit: {files[0] == files[1]}")
    return files[0] == files[1]


def wait_for_checkpoints(run: Path, count: int, part: float, process: "subprocess.Popen[bytes]") -> None:
    """Wait for `count` more checkpoints, then for the share `part` of the time that the last one took."""
    newest, then, seconds = max(_steps(run), default=0), time.perf_counter(), 1.0
    while count and process.poll() is None:
        time.sleep(0.002)
        now = max(_steps(run), default=0)
        if now > newest:
            newest, count = now, count - 1
            seconds, then = time.perf_counter() - then, time.perf_counter()
    time.sleep(part * min(seconds, 2.0))


def _steps(run: Path) -> list[int]:
    """Return the steps of a run's checkpoints."""
    return sorted(int(folder.name.partition("-")[2]) for folder in run.glob("checkpoint-*"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill a run N times instead")
    parser.add_argument("--steps", type=int, default=30, help="steps of the bare loop (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        if args.kills:
            return 0 if run_kills(Path(name), args.kills) else 1
        run_engine(Path(name), warm_up=5)
        run_bare_loop(Path(name), warm_up=5, steps=args.steps)
        from torch.profiler import ProfilerActivity, profile, schedule

        steps = schedule(wait=4, warmup=1, active=8, repeat=1)
        share = run_engine(Path(name), 5, profile(activities=[ProfilerActivity.CPU], schedule=steps))
        print(f"the profiler: {share:.1%} outside; goal: at most 10%; {'met' if share <= 0.1 else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
