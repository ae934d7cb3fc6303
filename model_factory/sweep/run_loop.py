"""Check the points of a sweep, and train those that are not finished, each in a separate process."""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model_factory.experiment.config import Experiment, ExperimentConfig, read_experiment
from model_factory.experiment.path_values import find_missing_files
from model_factory.sweep.folder import SweepFolder
from model_factory.sweep.grid import Point
from model_factory.sweep.process import RunProcess, Start, Stopper, last_message
from model_factory.sweep.records import read_run
from model_factory.training.engine import add_default_sections
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.checkpoints import list_checkpoint_steps
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.resume import find_changes
from model_factory.yaml_config.choose import missing_section
from model_factory.yaml_config.errors import ConfigError, ConfigFileError, ConfigValueError, Problem

_PAUSE = 0.05
"""Time between two looks at the running processes. [seconds]"""


def check_points(config: str, fixed: Sequence[str], points: Iterable[Point]) -> list[ExperimentConfig]:
    """Check the file with the values of every point; return the experiments.

    Raises ConfigError with the problems of all points, each once.
    """
    problems: list[Problem] = []
    experiments = []
    for point in points:
        try:
            experiment = read_experiment(config, [*fixed, *point.overrides])
            _check_can_start(experiment)
            experiments.append(experiment.config)
        except ConfigFileError:
            raise
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigValueError(problems)
    return experiments


def _check_can_start(experiment: Experiment) -> None:
    """Raise ConfigValueError if a section or a file that training needs is missing."""
    root, entries = experiment.root, experiment.config.datasets or []
    problems = [missing_section(root, name) for name in ("model", "datasets") if name not in root.entries]
    if all(type(entry).__module__.startswith("data_manager.") for entry in entries):  # others may make their files
        problems += find_missing_files(experiment)
    if problems:
        raise ConfigValueError(problems)
    experiment.check_trainable()


def check_runs(folder: SweepFolder, points: Sequence[Point], experiments: Sequence[ExperimentConfig]) -> None:
    """Check that the runs of earlier sessions were trained with the configs of their points; raise UnfitError if not.

    A damaged run folder is left to its own process, so that the other points are trained.
    """
    for point, experiment in zip(points, experiments, strict=True):
        run = RunFolder(folder.run(point.name))
        if not run.is_finished and not list_checkpoint_steps(run.path):  # it starts from scratch
            continue
        try:
            changes = find_changes(run.read_config(), add_default_sections(experiment), run)
        except RunFolderError:
            continue
        if changes:  # train would continue the run with them
            lines = "\n  ".join(map(str, changes))
            raise UnfitError(f"{run} was trained with another config; move it to another folder:\n  {lines}")


@dataclass(frozen=True)
class RunResult:
    """Exit code of the process that trained a point."""

    point: Point
    code: int


@dataclass
class _Running:
    point: Point
    process: RunProcess
    began: float
    log_start: int


class RunLoop:
    """Trains points and reports a line for each; `options` are those of `train` that all points share."""

    def __init__(
        self,
        folder: SweepFolder,
        options: Sequence[str],
        lock: int,
        start: Start,
        stopper: Stopper,
        report: Callable[[str], None],
        metric: str = "eval_loss",
    ) -> None:
        self.folder, self.options, self.lock, self.start = folder, options, lock, start
        self.stopper, self.report, self.metric = stopper, report, metric
        self.seconds: list[float] = []

    def train(
        self, points: Sequence[Point], jobs: int = 1, *, number: int = 1, total: int | None = None
    ) -> list[RunResult]:
        """Train the points that are not finished, `jobs` at once; start no more after a signal.

        `number` and `total` count the points in the report. A point whose process fails does not end the others.
        """
        left, running, results = list(points), list[_Running](), list[RunResult]()
        total = total or len(points)
        while left or running:
            while left and len(running) < jobs and self.stopper.received is None:
                running.append(self._begin(left.pop(0)))
            if not running:
                break
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                self.stopper.running.remove(one.process)
                code = one.process.poll() or 0
                results.append(RunResult(one.point, code))
                self._report(one, code, number + len(results) - 1, total, jobs)
            time.sleep(_PAUSE if running else 0)
        return results

    def _begin(self, point: Point) -> _Running:
        log = self.folder.log(point.name)
        log.touch()
        output = ["--output", str(self.folder.run(point.name)), "--resume"]
        sets = [word for option in point.overrides for word in ("--set", option)]
        log_start = log.stat().st_size
        process = self.start([*self.options, *output, *sets], log, self.lock)
        self.stopper.add(process)
        return _Running(point, process, time.monotonic(), log_start)

    def _report(self, one: _Running, code: int, number: int, total: int, jobs: int) -> None:
        name, seconds = one.point.name, time.monotonic() - one.began
        head = f"[{number}/{total}] {name}: "
        if code == 0:
            self.seconds.append(seconds)
            left = total - number
            eta = sum(self.seconds) / len(self.seconds) * left / jobs
            ending = f"; {left} left, about {show_seconds(eta)}" if left else ""
            self.report(f"{head}{self._describe_result(name)}, {show_seconds(seconds)}{ending}")
        elif self.stopper.received is not None:
            self.report(f"{head}{self._describe_state(name)}")
        else:
            log = self.folder.log(name)
            said = last_message(log, one.log_start).replace("\n", "\n    ")
            self.report(f"{head}{describe_code(code)}; its last lines, from {log}:\n    {said}")

    def _describe_result(self, name: str) -> str:
        try:
            record = read_run(self.folder.run(name))
        except RunFolderError as error:
            return str(error)
        value = record.objective(self.metric)
        if value is None:
            return next((f"{key} {found:.4g}" for key, found in record.metrics.items()), "finished, without metrics")
        return f"{self.metric} {value:.4g} at step {record.step:,}"

    def _describe_state(self, name: str) -> str:
        try:
            return read_run(self.folder.run(name)).state
        except RunFolderError:
            return "stopped before it began"


def describe_code(code: int) -> str:
    """Describe how a process ended: `failed with exit code 4`, `was ended by SIGKILL`."""
    number = -code if code < 0 else code - 128
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"failed with exit code {code}"


def show_seconds(seconds: float) -> str:
    """Return a duration as `41 s`, `6 min` or `2 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def train_options(config: str, fixed: Sequence[str], plugins: Sequence[str]) -> list[str]:
    """Return the options of `train` that all points share."""
    sets = [word for option in fixed for word in ("--set", option)]
    return ["--config", config, *(word for module in plugins for word in ("--plugin", module)), *sets]


def finished_points(folder: SweepFolder, points: Sequence[Point]) -> list[Point]:
    """Return the points whose run is finished."""
    return [point for point in points if RunFolder(folder.run(point.name)).is_finished]
