"""Judge cases in several processes; a process that dies or hangs in C is reported as a finding and replaced."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

from tools.fuzzing.oracle import Verdict

Item = TypeVar("Item")
Judge = Callable[[Item, Path], Verdict]
_KILL_AFTER = 30.0
"""Seconds before the process of a case is killed."""


@dataclass
class _Worker(Generic[Item]):
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    share: Sequence[Item]
    done: int = 0
    last_report: float = field(default_factory=time.monotonic)


def judge_all(
    items: Sequence[Item], judge: Judge[Item], jobs: int, kind_of: Callable[[Item], str]
) -> Iterator[Verdict]:
    """Yield the verdict of each item as soon as it is ready."""
    context = multiprocessing.get_context("fork")

    def start_worker(share: Sequence[Item]) -> _Worker[Item]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(share, judge, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, share)

    workers = [start_worker(share) for share in (items[job::jobs] for job in range(jobs)) if share]
    while workers:
        ready = wait([worker.pipe for worker in workers], timeout=1.0)
        for worker in list(workers):
            try:
                while worker.pipe.poll():
                    yield worker.pipe.recv()
                    worker.done, worker.last_report = worker.done + 1, time.monotonic()
                if time.monotonic() - worker.last_report < _KILL_AFTER or worker.pipe in ready:
                    continue
                complaint = f"timeout: still running after {_KILL_AFTER:g} s and not interruptible"
            except EOFError:
                worker.process.join()
                complaint = f"the process exited with {worker.process.exitcode}"
            workers.remove(worker)
            worker.process.kill()
            if worker.done < len(worker.share):
                item = worker.share[worker.done]
                yield Verdict(str(item), kind_of(item), None, _KILL_AFTER, 0.0, complaint)
                if remaining := worker.share[worker.done + 1 :]:
                    workers.append(start_worker(remaining))


def _work(share: Sequence[Item], judge: Judge[Item], pipe: Connection) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        for item in share:
            pipe.send(judge(item, Path(folder)))
    pipe.close()
