"""Times of several contenders in one process, interleaved, beside the speed of a matrix product at the same moment.

On a shared machine a time says little and a ratio more. Each measurement stands between two short matrix products and
counts only where both ran near the fastest one of the session: another job on the cores slows small parallel
operations far more than large products, and would be measured instead. With one thread the processor's time is taken, which
other jobs do not lengthen, and the wall clock's with more.
"""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter, process_time, sleep

import torch

PROBE = 1024
"""Rows and columns of the probing product."""
CALM = 0.85
"""Share of the fastest probe at which the machine counts as calm."""
PATIENCE = 20
"""Probes that a measurement waits for a calm moment to begin in."""
ATTEMPTS = 12
"""Tries for each measurement that is asked for, before busy ones are taken as well."""


class Clock:
    """Measures calls and remembers the fastest probe, `peak` FLOP a second of `torch.mm` in float32."""

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
        """Seconds of one call, the mean speed of the probes around it, and whether the machine was calm."""
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
        """Median seconds of each call over `rounds` calm measurements, one of each call after the other.

        A call that has taken `budget` seconds in all is not made again, once it has been measured.
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
    """Median seconds of a call, of torch.mm's speed beside it, and the number of measurements behind both."""

    def __init__(self, time: float, speed: float, calm: int, busy: int) -> None:
        self.time, self.speed, self.calm, self.busy = time, speed, calm, busy

    @classmethod
    def of(cls, measured: list[tuple[float, float, bool]]) -> "Timing":
        """Of the calm measurements; where there is none, of all of them."""
        calm = [(time, speed) for time, speed, is_calm in measured if is_calm]
        times, speeds = zip(*(calm or [(time, speed) for time, speed, _ in measured]), strict=True)
        return cls(median(times), median(speeds), len(calm), len(measured) - len(calm))

    def share(self, flops: float) -> float:
        """Share of torch.mm's speed, for a call that counts as so many operations."""
        return flops / self.time / self.speed
