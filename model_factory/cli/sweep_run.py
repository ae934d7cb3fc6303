"""Work of the verb `sweep`: check every point, train what is not finished, print the table; it imports torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_factory.sweep.comparison import compare_runs
from model_factory.sweep.folder import SweepFolder
from model_factory.sweep.grid import SEED, Axis, points_of, probe_points
from model_factory.sweep.optuna_search import OptunaSearch, Search, check_optuna, hide_password
from model_factory.sweep.process import Start, Stopper, start_training
from model_factory.sweep.records import is_higher_better
from model_factory.sweep.run_loop import RunLoop, check_points, check_runs, finished_points, train_options
from model_factory.training.distributed import world_size
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.exit_codes import FAILED, GOOD


def run(args: argparse.Namespace, axes: Sequence[Axis], fixed: Sequence[str], start: Start = start_training) -> int:
    """Run a sweep with parsed options and return the exit code; `start` starts the process of a run.

    Raises ConfigError with the problems of all points, and TrainingError for a folder, a database or an extra.
    """
    if world_size() > 1:
        raise UnfitError("a sweep starts its training processes itself; run it without torchrun")
    folder = SweepFolder(Path(args.output))
    content = {"search": args.search, "config": args.config, "set": list(fixed), "plugin": args.plugin}
    content["axes"] = {axis.key: list(axis.texts) or _show_range(axis) for axis in axes}
    options = train_options(args.config, fixed, args.plugin)
    if args.search == "grid":
        points = points_of(axes)
        experiments = check_points(args.config, fixed, points)
        content |= {"points": [point.name for point in points], "experiment": experiments[0].to_dict()}
        with folder.locked() as lock, Stopper() as stopper:
            folder.begin(content)
            check_runs(folder, points, experiments)
            done = finished_points(folder, points)
            before = f", {len(done)} of them finished before" if done else ""
            _say(f"{folder}: {_count(len(points), 'run')}{before}; what they print is in {folder.logs}")
            left = [point for point in points if point not in done]
            loop = RunLoop(folder, options, lock, start, stopper, _say)
            results = loop.train(left, args.jobs, number=len(done) + 1, total=len(points))
        failed = [result.point.name for result in results if result.code]
    else:
        search = _read_search(args, axes)
        experiments = check_points(args.config, fixed, probe_points(axes))
        content |= {
            "points": [],
            "experiment": experiments[0].to_dict(),
            "metric": search.metric,
            "study": search.study,
        }
        content["storage"] = None if search.storage is None else hide_password(search.storage)
        with folder.locked() as lock, Stopper() as stopper:
            folder.begin(content)
            loop = RunLoop(folder, options, lock, start, stopper, _say, search.metric)
            failed = OptunaSearch(search, folder, loop).run()
    return _finish(folder, stopper, failed, args.metric)


def _read_search(args: argparse.Namespace, axes: Sequence[Axis]) -> Search:
    """Return the search of the options; raise UnfitError without Optuna, or for a metric of unknown direction."""
    check_optuna()
    is_higher = args.direction == "maximize" if args.direction else is_higher_better(args.metric)
    if is_higher is None:
        raise UnfitError(f"--metric {args.metric}: add --direction minimize or --direction maximize")
    seeds = (
        [text for axis in axes if axis.key == SEED and axis.range is None for text in axis.texts] if args.seeds else []
    )
    searched = [axis for axis in axes if not seeds or axis.key != SEED]
    study = args.study or Path(args.output).resolve().name
    return Search(searched, args.trials, args.metric, is_higher, study, args.storage, tuple(seeds))


def _finish(folder: SweepFolder, stopper: Stopper, failed: Sequence[str], metric: str | None) -> int:
    """Print the table, sorted by the `metric` of a search, and how to continue; return the exit code."""
    _print_table(folder, metric)
    if stopper.received is not None:
        _say(f"{folder}: stopped by {stopper.received.name}; the same command continues it")
        return 128 + stopper.received
    if failed:
        names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        hint = "" if metric else "; the same command tries again"  # an Optuna search goes on without a failed trial
        _say(f"{folder}: {_count(len(failed), 'run')} failed ({names}){hint}")
        return FAILED
    return GOOD


def _print_table(folder: SweepFolder, metric: str | None) -> None:
    runs = folder.begun_runs()
    if not runs:
        return
    try:
        comparison = compare_runs(runs)
        if metric in comparison.metrics:
            comparison = compare_runs(runs, metric=metric)
    except RunFolderError as error:
        _say(f"note: there is no table of the runs: {error}")
        return
    print(escape_controls(comparison.text()))


def _show_range(axis: Axis) -> str:
    assert axis.range is not None
    return f"{axis.range.low!r}..{axis.range.high!r}{':log' if axis.range.log else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _say(text: str) -> None:
    print(escape_controls(text), file=sys.stderr, flush=True)
