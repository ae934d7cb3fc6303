"""Process of a command: Ctrl-C while its modules are imported, and output to a closed pipe. Imports nothing heavy."""

import atexit
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from model_factory.yaml_config.exit_codes import INTERRUPTED

_describe_interrupt: Callable[[], str] | None = None
"""Message of an interrupted command; None until something handles a KeyboardInterrupt."""


def begin_command() -> None:
    """Prepare the process of a command; a program calls it before its imports.

    Ctrl-C ends the process at once, with code 130 and no traceback, until `raise_on_interrupt` is called. Output that is
    left at the end is dropped if its pipe is closed. Missing streams (`2>&-`) are opened on the null device, as the next
    file would otherwise take their number.
    """
    # pydantic would search every installed package for plugins, which takes 5 ms of a check; none is used here
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            _discard(number)
            setattr(sys, name, os.fdopen(number, "w"))
    atexit.register(end_output)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def raise_on_interrupt(describe: Callable[[], str] | None) -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on, as the caller handles it with the message `describe()`.

    None: Ctrl-C ends the process again. During an import it still ends the process, since libraries turn it into an ImportError or go on without a module.
    """
    global _describe_interrupt
    _describe_interrupt = describe


def write_to_terminal(text: str) -> None:
    """Write to standard error at once, without its buffer; nothing happens if it is closed. Signal handlers call it."""
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


def _interrupt(_: int, frame: FrameType | None) -> None:
    if _describe_interrupt is not None and not _is_importing(frame):
        raise KeyboardInterrupt
    write_to_terminal(f"\n{_describe_interrupt() if _describe_interrupt else 'interrupted'}\n")
    os._exit(INTERRUPTED)


def _is_importing(frame: FrameType | None) -> bool:
    """Return True if an import is going on in a frame or in one that called it."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def take_any_text() -> None:
    """Make stdout escape characters that its encoding lacks, since a name in a file may have any character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def end_output() -> None:
    """Write what is left of both streams; drop it where the pipe is closed, so that Python does not report that at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe, or a closed stream
            with suppress(OSError, ValueError):
                _discard(stream.fileno())


def _discard(handle: int) -> None:
    """Make a file descriptor write to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != handle:
        os.dup2(null, handle)
        os.close(null)


class _LossyOutput(io.RawIOBase):
    """Output to a file descriptor which goes to the null device once it cannot be written, in place of an OSError."""

    def __init__(self, handle: int) -> None:
        super().__init__()
        self._handle = handle

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        while True:
            try:
                return os.write(self._handle, data)
            except BlockingIOError:  # a pipe without blocking that is full
                select.select([], [self._handle], [])
            except OSError:
                _discard(self._handle)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Drop what is printed inside the block once it cannot be written: to a closed pipe, a closed terminal or a full disk.

    Streams that are not those of the process, such as a notebook's, are left as they are.
    """
    former = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in former.items():
        if type(stream) is io.TextIOWrapper and _has_descriptor(stream):
            setattr(sys, name, _lossy(stream, is_error=name == "stderr"))
    try:
        yield
    finally:
        for name, stream in former.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


def _has_descriptor(stream: io.TextIOWrapper) -> bool:
    """Return True for a stream of the process, False for one that a caller replaced by text in memory."""
    with suppress(OSError, ValueError):
        return stream.fileno() >= 0
    return False


def _lossy(stream: io.TextIOWrapper, *, is_error: bool) -> TextIO:
    with suppress(OSError):
        stream.flush()
    raw = io.BufferedWriter(_LossyOutput(stream.fileno()))  # type: ignore[type-var]
    buffered = stream.line_buffering or is_error
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=buffered)
