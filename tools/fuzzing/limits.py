"""Limit the time and memory of a check, and measure its usage."""

import gc
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

MEGABYTE = 1 << 20
_STATUS, _PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class HangError(BaseException):
    """Timeout; a BaseException, so that no `except Exception` catches it."""


@dataclass(frozen=True)
class Limits:
    """Limits in `seconds` of wall clock time (of CPU time with `of_processor`, for busy machines) and in megabytes."""

    seconds: float = 2.0
    megabytes: int = 500
    of_processor: bool = False


@dataclass
class Usage:
    """Usage in seconds, and peak megabytes above the initial size."""

    seconds: float = 0.0
    megabytes: float = 0.0


@contextmanager
def enforce_limits(limits: Limits) -> Iterator[Usage]:
    """Run the block under limits, in the main thread: raise HangError or MemoryError if one is exceeded."""
    usage = Usage()
    timer, signal_number = (
        (signal.ITIMER_PROF, signal.SIGPROF) if limits.of_processor else (signal.ITIMER_REAL, signal.SIGALRM)
    )
    before_handler = signal.signal(signal_number, _raise_timeout)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    _reset_peak()
    size, resident = _kilobytes("VmSize"), _kilobytes("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + limits.megabytes * MEGABYTE, hard))
    start = time.perf_counter()
    signal.setitimer(timer, limits.seconds)
    try:
        yield usage
    finally:
        signal.setitimer(timer, 0)
        signal.signal(signal_number, before_handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        usage.seconds = time.perf_counter() - start
        usage.megabytes = max(0, _kilobytes("VmHWM") - resident) / 1024


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise HangError


def _kilobytes(name: str) -> int:
    """Read a value in kilobytes from /proc/self/status."""
    text = _STATUS.read_text()
    return int(text[text.index(f"{name}:") :].split(None, 2)[1])


def _reset_peak() -> None:
    """Reset the peak memory counter VmHWM."""
    if gc.isenabled() and gc.get_count()[2] > 20:
        gc.collect()
    _PEAK_RESET.write_text("5")
