"""Signals SIGTERM, SIGUSR1, SIGHUP and SIGINT: finish the current step, write a checkpoint and end the process.

SIGTERM comes from a cluster that preempts a machine, SIGUSR1 from a scheduler that warns before the job's time limit,
SIGHUP from a terminal that is closed, SIGINT from Ctrl-C. A second signal ends the process at once. SIGHUP stays ignored
where it was, as under `nohup`.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from model_factory.yaml_config.process import write_to_terminal

_NAMES = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")
"""Windows has neither SIGUSR1 nor SIGHUP."""
HANDLED = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class GracePeriod:
    """Context manager that stores the first signal in `received`; the former handlers are restored after it."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former_handlers: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only here
            handled = [number for number in HANDLED if not _is_hangup_ignored(number)]
            self._former_handlers = {number: signal.signal(number, self._receive) for number in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        self._former_handlers = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        text = f"\n{self.received.name}: finishing this step, then writing a checkpoint; a second signal ends the process at once\n"
        write_to_terminal(text)  # not print, which may be interrupted in the middle of a line


def _is_hangup_ignored(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def leave_to_parent(_: int) -> None:
    """Ignore signals in a data loading worker, because the training process needs its workers for the last step.

    SIGTERM from the training process, which sends it at its end, still ends the worker. On systems where Python does not
    report the sender of a signal (macOS, Windows), SIGTERM from any process ends it.
    """
    for number in HANDLED:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()  # not os.getppid(), which is the fork server
    if parent is not None and hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(parent.pid,), daemon=True).start()


def _exit_on_sigterm_from(process: int | None) -> None:
    """Wait for SIGTERM from `process`, then exit."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(128 + signal.SIGTERM)
