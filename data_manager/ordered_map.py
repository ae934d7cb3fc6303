"""A function over a stream of items in several processes: results in order, few items at a time."""

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
    """Each item with `function` of it, in the order of the items; at most three items a process are under way.

    With one process everything is done in this one. Raises what `function` raises, and DataError where a process dies.
    """
    if num_proc <= 1:
        for item in items:
            yield item, function(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ProcessPoolExecutor(num_proc, _context(), initializer=_begin, initargs=(function,))
    try:
        for item in items:
            waiting.append((item, pool.submit(_call, item)))
            while len(waiting) >= 3 * num_proc:
                yield _result(waiting, label)
        while waiting:
            yield _result(waiting, label)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(waiting: "deque[tuple[Item, Future[Result]]]", label: str) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    try:
        return item, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"{label}: a process ended before its work was done (is there too little memory?); "
            "try a smaller global_config.num_proc"
        ) from error


def _context() -> Any:
    """Forked processes have the function as it is; where there is no fork it is sent to them."""
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() and os.name == "posix" else "spawn"
    return multiprocessing.get_context(kind)


def _begin(function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is told by the main process alone
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process
    Thread(target=_end_with_parent, daemon=True).start()
    _function[:] = [function]


def _end_with_parent() -> None:
    """End this process when the main one is gone: killed, it cannot say so, and its lock would be held on here."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _function[0](item)
