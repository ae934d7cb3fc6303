"""Collect with pytest once, then fork a child for each fault, which runs tests until one fails.

The parent only imports and collects. It never runs a test, so that no fixture or oracle caches a result of the correct
code. A child has limits of CPU time and memory; exceeding one counts as a detected fault.
"""

import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.mutation.settings import ROOT

Work = Callable[[list[pytest.Item]], None]
MEMORY = 12 << 30
FAILED, PASSED, UNPATCHED = 1, 0, 3


@dataclass
class Child:
    """Running child: process id, reading end of its pipe, and deadline in seconds."""

    pid: int
    pipe: int
    until: float


class _CollectionPlugin:
    """Pytest plugin that passes the collected items to `work` instead of running them."""

    def __init__(self, work: Work) -> None:
        self.work = work

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors while collecting")
        self.work(session.items)
        return True


class _ReportPlugin:
    """Pytest plugin that ends the child at the first failure, else records each outcome in `outcomes`."""

    def __init__(self) -> None:
        self.pipe: int | None = None
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.pipe is not None:
            os.write(self.pipe, report.nodeid.encode())
            os._exit(FAILED)
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


reports = _ReportPlugin()


def collect(tests: list[str], work: Work) -> int:
    """Collect these tests and call `work` with their items; return pytest's exit code."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    _configure_hypothesis()
    _warm_up_torch()
    plain = ["-p", "no:xdist", "-p", "no:cacheprovider", "-q", "-q", "--no-header", "--capture=no", "-W", "ignore"]
    return int(pytest.main([*plain, *tests], plugins=[_CollectionPlugin(work), reports]))


def _warm_up_torch() -> None:
    """Call a custom operator once: torch's imports at the first call take a second, in every child otherwise."""
    import torch

    @torch.library.custom_op("mutation::warm", mutates_args=())
    def warm(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    warm.register_autograd(lambda _, gradient: gradient)
    warm(torch.ones(1, requires_grad=True)).sum().backward()
    importlib.import_module("performer_pytorch.performer_pytorch")


def _configure_hypothesis() -> None:
    """Use the same hypothesis examples each time, with no database shared between mutants."""
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "mutation", database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutation")


def start(prepare: Callable[[], None], tests: list[tuple[pytest.Item, float]], until: float = 300.0) -> Child:
    """Fork a child that calls `prepare` and then runs tests, each with its limit in seconds of processor time."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading, time.monotonic() + until)
    code = UNPATCHED
    try:
        os.close(reading)
        silence()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        prepare()
        reports.pipe, code = writing, FAILED
        run(tests, lambda item: os.write(writing, b""))
        code = PASSED
    finally:
        os._exit(code)


def run(tests: list[tuple[pytest.Item, float]], before: Callable[[pytest.Item], Any]) -> None:
    """Run tests in this process, each with its time limit."""
    for index, (item, limit) in enumerate(tests):
        before(item)
        signal.setitimer(signal.ITIMER_PROF, limit)
        following = tests[index + 1][0] if index + 1 < len(tests) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    signal.setitimer(signal.ITIMER_PROF, 0)


def silence() -> None:
    """Redirect stdout and stderr of this process to /dev/null."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 1)
    os.dup2(null_device, 2)


def wait_for_children(children: list[Child]) -> Iterator[tuple[Child, str, str]]:
    """Wait until a child ends; yield it with "killed", "timeout", "survived" or "unpatched", and the failed test."""
    while True:
        for child in children:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                if time.monotonic() < child.until:
                    continue
                os.kill(child.pid, signal.SIGKILL)
                _, status = os.waitpid(child.pid, 0)
            with os.fdopen(child.pipe) as pipe:
                test = pipe.read()
            yield child, _read_status(status), test
            return
        time.sleep(0.003)


def _read_status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL) else "killed"
    return {PASSED: "survived", UNPATCHED: "unpatched"}.get(os.WEXITSTATUS(status), "killed")


def relative(path: str) -> str:
    """Return a path relative to the root."""
    return str(Path(path).resolve().relative_to(ROOT))
