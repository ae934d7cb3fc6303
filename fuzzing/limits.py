"""What a check may use: seconds and memory; and what it did use."""

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
    """The time is up; no `except Exception` holds it."""


@dataclass(frozen=True)
class Limits:
    """`seconds` of the clock, or of the processor's time alone where the machine is busy with other things."""

    seconds: float = 2.0
    megabytes: int = 500
    of_processor: bool = False


@dataclass
class Used:
    """Seconds, and megabytes at the peak beyond what was there before."""

    seconds: float = 0.0
    megabytes: float = 0.0


@contextmanager
def limited(limits: Limits) -> Iterator[Used]:
    """Run the block under limits, in the main thread: HangError beyond the time, MemoryError beyond the memory."""
    used = Used()
    which, signal_number = (
        (signal.ITIMER_PROF, signal.SIGPROF) if limits.of_processor else (signal.ITIMER_REAL, signal.SIGALRM)
    )
    before_handler = signal.signal(signal_number, _time_is_up)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    _reset_peak()
    size, resident = _kilobytes("VmSize"), _kilobytes("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + limits.megabytes * MEGABYTE, hard))
    start = time.perf_counter()
    signal.setitimer(which, limits.seconds)
    try:
        yield used
    finally:
        signal.setitimer(which, 0)
        signal.signal(signal_number, before_handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        used.seconds = time.perf_counter() - start
        used.megabytes = max(0, _kilobytes("VmHWM") - resident) / 1024


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise HangError


def _kilobytes(name: str) -> int:
    """A line of /proc/self/status."""
    text = _STATUS.read_text()
    return int(text[text.index(f"{name}:") :].split(None, 2)[1])


def _reset_peak() -> None:
    """Have VmHWM count from now on."""
    if gc.isenabled() and gc.get_count()[2] > 20:
        gc.collect()
    _PEAK_RESET.write_text("5")
