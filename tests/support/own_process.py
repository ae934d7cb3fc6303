"""Run a test in a separate process, for tests that change torch itself and would disturb later ones."""

import importlib
import traceback
from collections.abc import Callable
from functools import wraps
from multiprocessing.connection import Connection
from typing import Any

from tests.fork_server import CONTEXT
from tests.processes import die_with_parent


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Decorate a test function so that its body runs in a process forked from the server of `tests.fork_server`.

    Parameters of the test must be picklable. A failure is reported with the traceback of the other process.
    """

    @wraps(test)
    def run(**given: Any) -> None:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_run, args=(test.__module__, test.__qualname__, given, theirs))
        process.start()
        theirs.close()
        try:
            failure = ours.recv()
        except EOFError:
            process.join()
            failure = f"the process of the test ended with exit code {process.exitcode}"
        process.join()
        if failure is not None:
            raise AssertionError(failure)

    return run


def _run(module: str, name: str, given: dict[str, Any], answer: Connection) -> None:
    die_with_parent()
    failure = None
    try:
        getattr(importlib.import_module(module), name).__wrapped__(**given)
    except BaseException:
        failure = traceback.format_exc()
    answer.send(failure)
    answer.close()
