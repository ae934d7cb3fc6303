"""Optuna search: each trial's values come from Optuna (TPE), its runs are trained like the points of a grid.

The study is in the sweep's folder (SQLite), or in a database that several machines share. A trial whose sweep was stopped or
killed is marked failed, and queued again with the same values: its run folder has the same name, so it resumes. A trial
of a machine that is gone counts as killed once its heartbeat stops. The sampler is seeded anew for each trial, by the number
of trials so far, so that a sweep that was stopped draws the same values as one that was not.
"""

import os
import re
import socket
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model_factory.sweep.folder import SweepFolder
from model_factory.sweep.grid import SEED, Axis, Point, folder_name, short_names, show_value
from model_factory.sweep.records import read_run
from model_factory.sweep.run_loop import RunLoop
from model_factory.training.errors import TrainingError, UnfitError
from model_factory.training.run.folder import RunFolder

if TYPE_CHECKING:
    import optuna

_HEARTBEAT = 60
"""Time between two signs of life of a running trial, in the database; after three without one, it counts as killed. [seconds]"""
_ATTEMPTS = 5
"""Attempts to connect to a database, a second apart."""
_MACHINE, _NAME = "machine", "name"
"""Attributes of a trial: where it runs, and the name of its run folder."""


class _TrialFailed(Exception):
    """A run of the trial failed, or has no value of the metric."""


class _Stopped(Exception):
    """A signal stopped the sweep."""


@dataclass(frozen=True)
class Search:
    """Settings of a search: axes, training seeds for each trial, number of trials, and the metric to optimise."""

    axes: Sequence[Axis]
    trials: int
    metric: str
    maximize: bool
    study: str
    storage: str | None = None
    seeds: Sequence[str] = field(default_factory=tuple)


def check_optuna() -> None:
    """Raise UnfitError where Optuna is not installed."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UnfitError(
            "--search optuna needs the extra 'sweep', which is not installed: pip install 'model-factory[sweep]'"
        )


class OptunaSearch:
    """Runs the trials of a study on this machine."""

    def __init__(self, search: Search, folder: SweepFolder, loop: RunLoop) -> None:
        self.search, self.folder, self.loop = search, folder, loop
        self.machine = f"{socket.gethostname()}:{os.path.realpath(folder.path)}"
        self.names = short_names([axis.key for axis in search.axes])
        with _explain_database_errors(search.storage), _without_warnings():
            self.study = self._open_study()
        self.failed: list[str] = []

    def run(self) -> list[str]:
        """Run trials until the study has as many as asked for, or a signal comes; return the names of failed ones.

        Raises TrainingError if the database cannot be reached.
        """
        with _explain_database_errors(self.search.storage), _without_warnings():
            self._queue_killed_trials()
            while self.loop.stopper.received is None and self._has_trials_left():
                self.study.sampler = self._sampler()
                try:
                    self.study.optimize(self._train_trial, n_trials=1, catch=(_TrialFailed,))
                except _Stopped:
                    self._queue_again(self.study.trials[self.trial_number])
        return self.failed

    def _open_study(self) -> "optuna.Study":
        """Open the study, or create it; raise UnfitError if it optimises in the other direction."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        direction = "maximize" if self.search.maximize else "minimize"
        study = optuna.create_study(
            storage=self._connect(), study_name=self.search.study, direction=direction, load_if_exists=True
        )
        if (held := study.direction.name.lower()) != direction:
            raise UnfitError(
                f"the study {self.search.study!r} has direction {held}; give --direction {held}, or another --study"
            )
        return study

    def _connect(self) -> "optuna.storages.RDBStorage":
        """Connect to the database; try again where another machine is making its tables."""
        import optuna
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        for attempt in range(_ATTEMPTS):
            try:
                return optuna.storages.RDBStorage(
                    self.search.storage or f"sqlite:///{self.folder.study}",
                    heartbeat_interval=_HEARTBEAT,
                    grace_period=3 * _HEARTBEAT,
                    heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
                )
            except (IntegrityError, ProgrammingError):
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(1)
        raise AssertionError("the loop returns or raises")

    def _roots(self) -> list[int]:
        """Return the numbers of the trials in order; a trial that was queued again counts as the first one."""
        return sorted({_root(trial) for trial in self.study.get_trials(deepcopy=False)})

    def _has_trials_left(self) -> bool:
        import optuna

        optuna.storages.fail_stale_trials(self.study)
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        return bool(waiting) or len(self._roots()) < self.search.trials

    def _sampler(self) -> "optuna.samplers.BaseSampler":
        import optuna

        machine = self.machine if self.search.storage else ""  # two machines that start together draw other values
        return optuna.samplers.TPESampler(seed=zlib.crc32(f"{len(self._roots())}/{machine}".encode()))

    def _queue_killed_trials(self) -> None:
        """Queue the trials again that ran here when this sweep was killed; its lock says that none does now."""
        import optuna

        for trial in self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if trial.user_attrs.get(_MACHINE) == self.machine:
                self._queue_again(trial)
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _queue_again(self, trial: "optuna.trial.FrozenTrial") -> None:
        import optuna

        optuna.storages.RetryHeartbeatStaleTrialCallback()(self.study, trial)

    def _train_trial(self, trial: "optuna.Trial") -> float:
        """Train the runs of a trial, one for each seed; return the mean of the metric."""
        self.trial_number = trial.number
        number = self._roots().index(_root(self.study.trials[trial.number]))  # as in a sweep that was not stopped
        texts = [_suggest(trial, axis) for axis in self.search.axes]
        shown = [_show(axis, text) for axis, text in zip(self.search.axes, texts, strict=True)]
        name = folder_name(list(zip(self.names, shown, strict=True)), f"trial-{number:04}")
        trial.set_user_attr(_MACHINE, self.machine)
        trial.set_user_attr(_NAME, name)
        overrides = tuple(f"{axis.key}={text}" for axis, text in zip(self.search.axes, texts, strict=True))
        points = [Point(f"{name},seed={seed}", (*overrides, f"{SEED}={seed}")) for seed in self.search.seeds]
        values = [self._train_point(point, number + 1) for point in points or [Point(name, overrides)]]
        return sum(values) / len(values)

    def _train_point(self, point: Point, number: int) -> float:
        self.folder.add_point(point.name)
        run = RunFolder(self.folder.run(point.name))
        if not run.is_finished:
            results = self.loop.train([point], number=number, total=max(self.search.trials, number))
            if self.loop.stopper.received is not None and not run.is_finished:
                raise _Stopped
            if results[0].code:
                self.failed.append(point.name)
                raise _TrialFailed
        record = read_run(run.path)
        value = record.objective(self.search.metric)
        if value is None:
            known = ", ".join(record.metrics) or "none"
            self.failed.append(point.name)
            self.loop.report(f"{point.name}: the run has no finite {self.search.metric}; its metrics: {known}")
            raise _TrialFailed
        return value


def _root(trial: "optuna.trial.FrozenTrial") -> int:
    """Return the number of the first trial that a trial repeats, or its own."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def _show(axis: Axis, text: str) -> str:
    """Return a value for the name of a folder, a drawn number with four digits."""
    return f"{float(text):.4g}" if axis.range is not None and not axis.range.is_integer else show_value(text)


def _suggest(trial: "optuna.Trial", axis: Axis) -> str:
    """Return the value of an axis for a trial, as text for `--set`; raise UnfitError for a list that the study lacks."""
    found = axis.range
    if found is None:
        try:
            return str(trial.suggest_categorical(axis.key, list(axis.texts)))
        except ValueError as error:
            raise UnfitError(f"the study has other values of {axis.key}; give another --study ({error})") from error
    if found.is_integer:
        return str(trial.suggest_int(axis.key, int(found.low), int(found.high), log=found.log))
    return repr(trial.suggest_float(axis.key, found.low, found.high, log=found.log))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Optuna's warnings that heartbeats are an experimental feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explain_database_errors(url: str | None) -> Iterator[None]:
    """Convert the errors of a database to a TrainingError that names it, without its password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        name = f"--storage {hide_password(url)}" if url else "optuna.db in the sweep's folder"
        if isinstance(error, ImportError):
            cause += "; install the database's driver, such as psycopg[binary] for postgresql://"
        raise TrainingError(f"{name}: the database cannot be used: {cause}") from error


def hide_password(url: str) -> str:
    """Return a database URL with *** for its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
