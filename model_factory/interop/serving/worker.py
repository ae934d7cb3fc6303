"""The thread that runs the model: one job at a time, a bounded queue of others, and an end for those nobody waits for."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import torch

MAX_WAITING = 8
"""Jobs that wait while one runs."""


class GoneError(Exception):
    """Raised inside a job whose client is gone."""


class BusyError(Exception):
    """Error for a job that finds the queue full."""


class StoppedError(Exception):
    """Error of a job that the end of the server cuts off."""


class Job:
    """Job of a client on an event loop; iterating over it yields what the job sends, and raises the job's error."""

    def __init__(self, work: Callable[["Job"], None], worker: "Worker") -> None:
        self._work, self._worker = work, worker
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self._is_cancelled = False

    # Called by the event loop.

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self, error: Exception | None = None) -> None:
        """End the job: at once if it waits, else at the model's next call; its client gets `error`, or just the end."""
        self._is_cancelled = True
        self._worker.drop(self)
        self._put(error)

    # Called by the thread.

    def check(self) -> None:
        """Raise GoneError if the client is gone."""
        if self._is_cancelled:
            raise GoneError

    def send(self, event: Any) -> None:
        """Send an event to the client; raises GoneError if it is gone."""
        self.check()
        self._put(event)

    def run(self) -> None:
        """Do the work, and send its end or its error."""
        end: Exception | None = None
        try:
            self.check()
            self._work(self)
        except GoneError:
            pass
        except Exception as error:
            end = error
        self._put(end)

    def _put(self, event: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Worker:
    """Thread that runs jobs in their order, at most `max_waiting` of which wait for the one that runs."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.max_waiting = max_waiting
        self.running: Job | None = None
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_stopped = False
        self._num_threads = torch.get_num_threads()
        threading.Thread(target=self._run, daemon=True, name="model").start()

    @property
    def waiting(self) -> int:
        """Return the number of jobs that wait."""
        return len(self._waiting)

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Queue a job, from an event loop; raises BusyError if the queue is full, StoppedError at the end of the server."""
        job = Job(work, self)
        with self._changed:
            if self._is_stopped:
                raise StoppedError
            if len(self._waiting) >= self.max_waiting + (self.running is None):
                raise BusyError
            self._waiting.append(job)
            self._changed.notify()
        return job

    def drop(self, job: Job) -> None:
        """Take a job out of the queue, if it waits."""
        with self._changed, suppress(ValueError):
            self._waiting.remove(job)

    def stop(self) -> None:
        """Cancel all jobs, and take no others."""
        with self._changed:
            self._is_stopped = True
            jobs = [*self._waiting, *([self.running] if self.running else [])]
            self._changed.notify()
        for job in jobs:
            job.cancel(StoppedError())

    @torch.no_grad()
    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)  # a setting of each thread, on which the last digits depend
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if self._is_stopped:
                    return
                self.running = self._waiting.popleft()
            self.running.run()
            with self._changed:
                self.running = None
