"""Sweeps of tiny runs, whose training processes are forked from a server that has imported torch and transformers."""

import os
import signal
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from model_factory.cli.sweep import _check_search, _read_axes, build_parser
from model_factory.cli.sweep_run import run
from tests.training.runs import experiment, start

TINY = {"max_steps": 4, "eval_steps": 2, "save_steps": 1, "logging_steps": 1, "max_eval_samples": 2}


class Killed(BaseException):
    """The sweep is gone at once, like a process that gets SIGKILL."""


class Forked:
    """Training process of a sweep; `watch` is called at each look at it."""

    def __init__(self, options: Sequence[str], log: Path, watch: Callable[["Forked"], None]) -> None:
        self.output, self.watch = Path(options[options.index("--output") + 1]), watch
        self.process = start(*options, log=log)

    def poll(self) -> int | None:
        if self.process.exitcode is None:
            self.watch(self)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def has_checkpoint(self) -> bool:
        return any(self.output.glob("checkpoint-*"))

    def kill_with_sweep(self) -> None:
        self.process.kill()
        self.process.join()
        raise Killed


def write_experiment(folder: Path, **training: object) -> Path:
    """Write the file of a tiny run."""
    return experiment(folder, **{**TINY, **training})


def parse(*words: object) -> Namespace:
    """Parse and check the options of the verb sweep."""
    parser = build_parser()
    args = parser.parse_args([str(word) for word in words])
    _check_search(args, parser)
    args.axes, args.fixed = _read_axes(args, parser)
    return args


def sweep(*words: object, watch: Callable[[Forked], None] = lambda _: None) -> int:
    """Run a sweep in this process and return its exit code."""
    args = parse(*words)
    return run(args, args.axes, args.fixed, lambda options, log, _: Forked(options, log, watch))


def interrupt(process: Forked) -> None:
    """Send SIGTERM to the sweep, which passes it on, once the process has a checkpoint."""
    if process.has_checkpoint():
        process.watch = lambda _: None
        os.kill(os.getpid(), signal.SIGTERM)
