"""Training processes of a sweep: each run is trained by `model-factory train --resume` in a separate process.

So a run that crashes or leaks memory cannot reach the others. SIGTERM, SIGUSR1 and Ctrl-C are passed on to the runs, which
write a checkpoint and end; a second signal is passed on too, and ends them at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol, Self

from model_factory.training.run.signals import HANDLED

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class RunProcess(Protocol):
    """A started process; `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""


Start = Callable[[Sequence[str], Path, int], RunProcess]
"""Starts `model-factory train` with options and a log file, and lets it inherit the descriptor of the sweep's lock."""


def start_training(options: Sequence[str], log: Path, lock: int) -> RunProcess:
    """Start `python -m model_factory train` with its output appended to `log`.

    The process is not in the terminal's foreground group, so that Ctrl-C reaches it through the sweep alone. If the sweep
    is killed, the process gets SIGTERM (on Linux); until it ends, it holds the sweep's lock.
    """
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "model_factory", "train", *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,) if os.name == "posix" else (),
            preexec_fn=_end_with_parent
            if _LIBC is not None
            else None,  # only a call of libc, which is safe after a fork
        )


def _end_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Stopper:
    """Context manager that stores the first signal in `received` and passes every signal on to the running processes."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.running: list[RunProcess] = []
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only here
            self._former = {number: signal.signal(number, self._receive) for number in HANDLED}
        return self

    def add(self, process: RunProcess) -> None:
        """Add a process that has just started; a signal that came in the meantime is passed on to it."""
        self.running.append(process)
        if self.received is not None:
            process.send_signal(self.received)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            waits = (
                "the runs write their checkpoints; a second signal ends them at once" if self.running else "stopping"
            )
            os.write(2, f"\n{self.received.name}: {waits}\n".encode())  # not print, which may be interrupted in a line
        for process in self.running:
            process.send_signal(number)


def last_message(log: Path, start: int) -> str:
    """Return the last lines, at most three, that a process wrote to its log after `start` bytes."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("step ")]
    return "\n".join(lines[-3:])
