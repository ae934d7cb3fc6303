"""Signals that ask a run to end: the step at hand is finished, a checkpoint is written, and the process ends.

SIGTERM comes from a cluster that takes a machine back, SIGUSR1 from a scheduler that was asked to warn of the end of a
job's time, SIGINT from Ctrl-C. A second one ends the process at once.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
"""SIGUSR1 is not known to Windows."""
HANDLED = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class GracePeriod:
    """Inside the block, remembers the first of these signals in `received`; outside, they do what they did before."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers nowhere else
            self._before = {number: signal.signal(number, self._receive) for number in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        text = f"\n{self.received.name}: finishing this step, then writing a checkpoint; once more ends at once\n"
        os.write(2, text.encode())  # print may be in the middle of a line of its own


def leave_to_parent(_: int) -> None:
    """In a loader's worker: a signal to the whole job is for the training process, which still needs its workers.

    SIGTERM counts where the training process sends it, as it does at its end. Where Python does not tell who sent a
    signal (macOS, Windows), workers end by any.
    """
    for number in HANDLED:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()  # by a fork server, os.getppid() is another
    if parent is not None and hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(parent.pid,), daemon=True).start()


def _end_for(process: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(128 + signal.SIGTERM)
