"""Cases judged by several processes; one that dies or hangs in C is a finding too, and another takes its place."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

from fuzzing.oracle import Verdict

Item = TypeVar("Item")
Judge = Callable[[Item, Path], Verdict]
_SLACK = 30.0
"""Seconds that a case may take before its process is ended from outside."""


@dataclass
class _Worker(Generic[Item]):
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    share: Sequence[Item]
    done: int = 0
    since: float = field(default_factory=time.monotonic)


def judged(items: Sequence[Item], judge: Judge[Item], jobs: int, kind_of: Callable[[Item], str]) -> Iterator[Verdict]:
    """The verdict of each item, as they come."""
    context = multiprocessing.get_context("fork")

    def started(share: Sequence[Item]) -> _Worker[Item]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(share, judge, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, share)

    workers = [started(share) for share in (items[job::jobs] for job in range(jobs)) if share]
    while workers:
        ready = wait([worker.pipe for worker in workers], timeout=1.0)
        for worker in list(workers):
            try:
                while worker.pipe.poll():
                    yield worker.pipe.recv()
                    worker.done, worker.since = worker.done + 1, time.monotonic()
                if time.monotonic() - worker.since < _SLACK or worker.pipe in ready:
                    continue
                what = f"it did not end within {_SLACK:g} s, nor could it be interrupted"
            except EOFError:
                worker.process.join()
                what = f"the process ended with {worker.process.exitcode}"
            workers.remove(worker)
            worker.process.kill()
            if worker.done < len(worker.share):
                item = worker.share[worker.done]
                yield Verdict(str(item), kind_of(item), None, _SLACK, 0.0, what)
                if rest := worker.share[worker.done + 1 :]:
                    workers.append(started(rest))


def _work(share: Sequence[Item], judge: Judge[Item], pipe: Connection) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        for item in share:
            pipe.send(judge(item, Path(folder)))
    pipe.close()
