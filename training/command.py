"""What `train.py` does with its options: check, train, say what became of it; and its exit codes."""

import argparse
import faulthandler
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from experiment.config import Experiment, read_experiment
from training.checkpoints import steps_of
from training.engine import Outcome, train
from training.errors import FAILED, TrainingError
from training.run_folder import RunFolder
from yaml_config.choose import missing_section
from yaml_config.errors import ConfigError, ConfigValueError, harmless
from yaml_config.overrides import split_override
from yaml_config.plugins import import_plugins
from yaml_config.report import GOOD, UNREADABLE, USAGE, report_failure, take_any_text

INTERRUPTED = 130
_GONE = "another process ended before this one, and says why where it could"
_MEANINGS = {
    "by peer": _GONE,  # gloo, closed or reset
    "ncclRemoteError": _GONE,
    "DataLoader worker (pid": "a process that loads data ended unexpectedly: killed, or for want of memory; "
    "training.dataloader_num_workers: 0 does without them",
}
"""What torch says of a process that is gone, and what that means."""


def run(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> int:
    """Carry out parsed options; `usage_error` ends the program with code 2."""
    take_any_text()
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            usage_error(str(error))
    import_plugins(args.plugin, usage_error)
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a file cut short under our feet is a bus error, which would end us without a word
    try:
        experiment = read_experiment(args.config, args.overrides)
        _check_sections(experiment)
        experiment.check_trainable()
    except ConfigError as error:
        return report_failure(error, False) if _speaks() else 1
    if args.resume and _speaks():
        print(harmless(f"{args.output}: {_beginning(args.output)}"), file=sys.stderr)
    try:
        outcome = train(experiment.config, args.output, resume=args.resume)
    except KeyboardInterrupt:
        print(harmless(f"\n{args.output}: interrupted; {_way_on(args.output)}"), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _report(error, args)
    if outcome.stopped_by is not None:
        if _speaks():
            told = f"{args.output}: stopped by {outcome.stopped_by.name}"
            print(harmless(f"{told} after step {outcome.steps:,}; {_way_on(args.output)}"), file=sys.stderr)
        return 128 + outcome.stopped_by
    if _speaks():
        print(harmless(_verdict(outcome)))
    return GOOD


def _way_on(output: str) -> str:
    steps = steps_of(Path(output))
    return (
        f"--resume goes on from step {steps[-1]:,}" if steps else "no checkpoint was written yet, so it begins afresh"
    )


def _beginning(output: str) -> str:
    """What --resume comes to, before anything is loaded."""
    folder = Path(output)
    if not folder.is_dir():
        return "there is no such folder; the run begins afresh"
    if RunFolder(output).weights.is_file():
        return "the run was finished before"
    steps = steps_of(folder)
    return f"going on from step {steps[-1]:,}" if steps else "no checkpoint here; the run begins afresh"


def _check_sections(experiment: Experiment) -> None:
    root = experiment.root
    missing = [missing_section(root, name) for name in ("model", "datasets") if name not in root.entries]
    if missing:
        raise ConfigValueError(missing)


def _report(error: Exception, args: argparse.Namespace) -> int:
    """Say what went wrong; a traceback is for what nobody foresaw."""
    if isinstance(error, ConfigError):
        return report_failure(error, False)
    for words, meaning in _MEANINGS.items():
        if words in str(error) and (meaning is not _GONE or _is_one_of_several()):
            print(harmless(f"{args.config}: training failed: {meaning}; {_way_on(args.output)}"), file=sys.stderr)
            return FAILED
    if isinstance(error, TrainingError) and error.exit_code != FAILED and not _speaks():
        return error.exit_code  # all processes check alike, and one of them says it
    if not isinstance(error, ValueError | OSError | MemoryError | ImportError):
        print(harmless("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    told = _of_worker(str(error))
    hint = "; set training.ddp_find_unused_parameters: true" if "find_unused_parameters" in str(error) else ""
    print(harmless(f"{args.config}: training failed: {told}{hint}"), file=sys.stderr)
    return error.exit_code if isinstance(error, TrainingError) else FAILED


def _of_worker(message: str) -> str:
    """What went wrong in a process that loads data, out of the traceback that torch brings it in."""
    _, found, trace = message.partition("Original Traceback (most recent call last):")
    errors = re.split(r"^[\w.]+(?:Error|Exception): ", trace, flags=re.MULTILINE) if found else []
    return errors[-1].rstrip() if len(errors) > 1 else message


def _is_one_of_several() -> bool:
    """Whether a lost connection may be one to another process, and not to a hub."""
    from training.distributed import world_size

    return world_size() > 1


def _speaks() -> bool:
    """True in the process that speaks for all."""
    from training.distributed import is_main

    return is_main()


def _verdict(outcome: Outcome) -> str:
    run = outcome.folder
    if outcome.was_finished:
        return f"{run}: this run is finished; its weights are in {run.weights}"
    early = ", stopped early," if outcome.stopped_early else ""
    return f"{run}: trained{early} to step {outcome.steps:,}; weights in {run.weights}, curves in {run.curves}"


__all__ = ["GOOD", "INTERRUPTED", "UNREADABLE", "USAGE", "run"]
