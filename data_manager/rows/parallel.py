"""Ordered parallel map over a stream of items, with a bounded number of items in flight."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any, TypeVar

from data_manager.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: list[Callable[[Any], Any]] = []


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_proc: int = 1, label: str = "preparing data"
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with `function(item)`, in order; at most three items per process are in flight.

    With `num_proc` 1 everything runs in this process. Raise the errors of `function`, and DataError if a process dies.
    """
    if num_proc <= 1:
        for item in items:
            yield item, function(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ProcessPoolExecutor(num_proc, _context(), initializer=_init_worker, initargs=(function,))
    try:
        for item in items:
            waiting.append((item, pool.submit(_call, item)))
            while len(waiting) >= 3 * num_proc:
                yield _next_result(waiting, label)
        while waiting:
            yield _next_result(waiting, label)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next_result(waiting: "deque[tuple[Item, Future[Result]]]", label: str) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    try:
        return item, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"{label}: a worker process died (out of memory?); try a smaller global_config.num_proc"
        ) from error


def _context() -> Any:
    """Use fork if available, which needs no pickling of the function; else spawn."""
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() and os.name == "posix" else "spawn"
    return multiprocessing.get_context(kind)


def _init_worker(function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the main process reports an interruption
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process
    Thread(target=exit_with_parent, daemon=True).start()
    _function[:] = [function]


def exit_with_parent() -> None:
    """Exit when the main process is gone; otherwise a killed main process would leave its lock held here."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _function[0](item)
