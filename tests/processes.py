"""Wait for processes without a deadline, and end with each test whatever it started, also if it fails.

A deadline fails on a busy machine. Without one, a test waits until something happened, or until the processes that
could make it happen have ended.
"""

import ctypes
import gc
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
MARK = "TESTS_OWNER"
"""Environment variable that all processes of a test session inherit."""


_PARENT_DEATH_SIGNAL, _CHILD_SUBREAPER = 1, 36
"""Options of Linux's prctl."""


def is_running(process: Any) -> bool:
    """Return True until a `multiprocessing.Process` or a `subprocess.Popen` has ended."""
    return bool(process.is_alive()) if hasattr(process, "is_alive") else process.poll() is None


def wait_for(found: Callable[[], Found], *processes: Any) -> Found:
    """Return the first true value of `found()`; fail if all `processes`, of which some are given, have ended without it."""
    while True:
        alive = not processes or any(map(is_running, processes))
        value = found()
        if value:
            return value
        assert alive, f"ended without it: {processes}"
        time.sleep(0.005)


def results_of(processes: list[Any], queue: Any) -> list[Any]:
    """Return one result of each process from a queue; fail if one ended without a result."""
    found: list[Any] = []
    while len(found) < len(processes):
        ended = [process for process in processes if not is_running(process)]
        try:
            found.append(queue.get(timeout=0.05))
        except Empty:
            assert len(ended) <= len(found), f"ended without a result: {ended}"
    return found


def die_with_parent() -> None:
    """Let the system end this process when its parent ends, for a test session that is killed."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))


def children_of(pid: int) -> set[int]:
    """Return the child processes of a process, and theirs."""
    found: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = {int(child) for child in listing.read_text().split()}
        except OSError:  # the thread has ended
            continue
        found |= direct.union(*map(children_of, direct))
    return found


def started() -> set[int]:
    """Return the processes that tests have started: children of this process, without the servers of multiprocessing."""
    return {pid for pid in children_of(os.getpid()) - _servers() if _is_alive(pid)}


def _servers() -> set[int]:
    trackers: Any = (forkserver._forkserver, resource_tracker._resource_tracker)  # type: ignore[attr-defined]
    return {trackers[0]._forkserver_pid, trackers[1]._pid} - {None}


def end(pids: set[int]) -> None:
    """Kill processes and wait until they have ended."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pids = pids - {pid}
    while any(map(_is_alive, pids)):
        time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    """Return True if a process exists and is no zombie, whose parent has not yet asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def processes_end_with_their_test() -> Iterator[None]:
    """End the processes that a test has started and left running."""
    before = started()
    yield
    if started() - before:
        gc.collect()  # ends the workers of data loaders that are no longer used
        end(started() - before)


@pytest.fixture(autouse=True, scope="session")
def no_process_is_left() -> Iterator[None]:
    """Fail at the end of the session if a process that inherited its environment is running."""
    owner = os.environ[MARK] = uuid.uuid4().hex
    # a process whose parent has ended becomes a child of this one, so that it is found after its test
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
    yield
    end(started())
    marked = {pid for pid in _marked(owner) if _is_alive(pid)} - _servers()
    trackers = {pid for pid in marked if b"multiprocessing.resource_tracker" in _read(pid, "cmdline")}
    left = marked - trackers
    commands = [_read(pid, "cmdline").replace(b"\0", b" ") for pid in left]
    end(left)
    while any(map(_is_alive, trackers)):  # they end after the processes that they track
        time.sleep(0.005)
    assert not left, f"processes outlived the tests: {commands}"


def _marked(owner: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if f"{MARK}={owner}".encode() in _read(pid, "environ") and pid != os.getpid():
            yield pid


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
