"""Time several contenders in one process, interleaved, with the speed of a matrix product as a probe.

On a shared machine ratios are more reliable than times. Each measurement runs between two short matrix products, the
probes, and counts only if both ran near the peak speed of the session: other jobs slow small parallel operations far
more than large products. With one thread the processor time is measured, which other jobs do not change; with more
threads the wall clock.
"""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter, process_time, sleep

import torch

PROBE = 1024
"""Rows and columns of the probe's matrices."""
CALM = 0.85
"""Share of the fastest probe from which the machine counts as idle."""
PATIENCE = 20
"""Maximum number of probes that a measurement waits for the machine to be idle."""
ATTEMPTS = 12
"""Attempts for each measurement, before those of a busy machine are used as well."""


class Clock:
    """Timer of calls, with the fastest probe as `peak`, FLOP a second of `torch.mm` in float32."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.now = process_time if threads == 1 else perf_counter
        self._a, self._b = torch.randn(PROBE, PROBE), torch.randn(PROBE, PROBE)
        self._out = torch.empty(PROBE, PROBE)
        self.peak = max(self._probe() for _ in range(30))

    def _probe(self) -> float:
        return 2 * PROBE**3 / self._seconds(lambda: torch.mm(self._a, self._b, out=self._out))

    def _seconds(self, call: Callable[[], object]) -> float:
        start = self.now()
        call()
        return self.now() - start

    def measure(self, call: Callable[[], object]) -> tuple[float, float, bool]:
        """Return the seconds of one call, the mean speed of its probes, and True if the machine was idle."""
        before = self._probe()
        for _ in range(PATIENCE):
            if before >= CALM * self.peak:
                break
            sleep(0.05)
            before = self._probe()
        time, after = self._seconds(call), self._probe()
        self.peak = max(self.peak, before, after)
        return time, (before + after) / 2, min(before, after) >= CALM * self.peak

    def medians(self, calls: Mapping[str, Callable[[], object]], *, rounds: int, budget: float) -> dict[str, "Timing"]:
        """Return the median seconds of each call over `rounds` measurements on an idle machine, interleaved.

        A call that has taken `budget` seconds in total is not repeated, once it has been measured.
        """
        for call in calls.values():
            call()  # warm up
        kept: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in calls}
        for _ in range(rounds * ATTEMPTS):
            for name, call in calls.items():
                spent, calm = sum(time for time, *_ in kept[name]), sum(is_calm for *_, is_calm in kept[name])
                if calm < rounds and (not calm or spent < budget) and spent < 3 * budget:
                    kept[name].append(self.measure(call))
        return {name: Timing.of(measured) for name, measured in kept.items()}


class Timing:
    """Median seconds of a call, median speed of torch.mm, and the number of idle and busy measurements."""

    def __init__(self, time: float, speed: float, calm: int, busy: int) -> None:
        self.time, self.speed, self.calm, self.busy = time, speed, calm, busy

    @classmethod
    def of(cls, measured: list[tuple[float, float, bool]]) -> "Timing":
        """Compute medians of the measurements on an idle machine, or of all if none was idle."""
        calm = [(time, speed) for time, speed, is_calm in measured if is_calm]
        times, speeds = zip(*(calm or [(time, speed) for time, speed, _ in measured]), strict=True)
        return cls(median(times), median(speeds), len(calm), len(measured) - len(calm))

    def share(self, flops: float) -> float:
        """Return the share of torch.mm's speed, for a call of `flops` operations."""
        return flops / self.time / self.speed
