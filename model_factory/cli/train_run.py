"""Work of the verb `train`: check the file, train, report the result; it imports torch."""

import argparse
import faulthandler
import re
import sys
import traceback
from pathlib import Path

from model.checkpoint import with_device
from model.device import DeviceError
from model_factory.experiment.config import Experiment, ExperimentConfig, read_experiment
from model_factory.training.distributed import is_main, world_size
from model_factory.training.engine import TrainResult, train
from model_factory.training.errors import is_out_of_memory
from model_factory.training.run.checkpoints import resume_hint
from model_factory.training.run.environment import show_only_gpu
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.resume import plan_resume
from model_factory.training.speed.progress import describe_seconds
from model_factory.training.trial import can_try, try_step
from model_factory.yaml_config.choose import missing_section
from model_factory.yaml_config.errors import ConfigError, ConfigValueError, escape_controls, report_failure
from model_factory.yaml_config.exit_codes import FAILED, GOOD

_PEER_GONE = "another process ended before this one; its own message says why, if it could write one"
_MEANINGS = {
    "by peer": _PEER_GONE,  # gloo, closed or reset
    "ncclRemoteError": _PEER_GONE,
    "DataLoader worker (pid": "a process that loads data ended unexpectedly: killed, or out of memory; "
    "training.dataloader_num_workers: 0 loads data without such processes",
}
"""Parts of torch's messages about a process that is gone, and their meaning."""


def run(args: argparse.Namespace) -> int:
    """Train with parsed options and return the exit code."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        # a truncated memory-mapped file raises SIGBUS, which kills the process silently; a notebook's sys.stderr has no descriptor
        faulthandler.enable(sys.__stderr__)
    try:
        experiment = read_experiment(args.config, args.overrides)
        _check_sections(experiment)
        experiment.check_trainable()
    except ConfigError as error:
        return report_failure(error, False) if _is_main() else 1
    try:
        config = experiment.config if args.gpu is None else _select_gpu(experiment.config, args.gpu)
        _start(config, args)
        result = train(config, args.output, resume=args.resume)
    except Exception as error:
        return _report(error, args)
    if result.stopped_by is not None:
        if _is_main():
            stopped = f"{args.output}: stopped by {result.stopped_by.name}"
            same = ", with the same --set" if args.overrides else ""
            hint = f"{resume_hint(args.output)}{same}"
            print(escape_controls(f"{stopped} after step {result.steps:,}; {hint}"), file=sys.stderr)
        return 128 + result.stopped_by
    if _is_main():
        print(escape_controls(_describe_result(result)))
    return GOOD


def _select_gpu(config: ExperimentConfig, gpu: int) -> ExperimentConfig:
    """Make a GPU the only visible one, and return the config with its model on it; raise DeviceError if it is not there."""
    if world_size() > 1:
        raise DeviceError(f"--gpu {gpu} is for one process, and there are {world_size()}; leave it out")
    show_only_gpu(gpu)
    return config.model_copy(update={"model": config.model and with_device(config.model, "auto")})


def _start(config: ExperimentConfig, args: argparse.Namespace) -> None:
    """Report a --resume without a checkpoint, and run a new run's first and longest rows through one step.

    So what cannot train ends before step 1. Several processes and data that would be downloaded are not tried.
    """
    plan = plan_resume(RunFolder(args.output), config, resume=args.resume, world=world_size())
    if plan.checkpoint is not None or plan.is_finished:
        return
    if args.resume and _is_main():
        found = "no checkpoint here" if Path(args.output).is_dir() else "there is no such folder"
        print(escape_controls(f"{args.output}: {found}; the run starts from scratch"), file=sys.stderr)
    if world_size() == 1 and can_try(config):
        try_step(config)


def _check_sections(experiment: Experiment) -> None:
    """Raise ConfigValueError if the section `model` or `datasets` is missing."""
    root = experiment.root
    missing = [missing_section(root, name) for name in ("model", "datasets") if name not in root.entries]
    if missing:
        raise ConfigValueError(missing)


def _report(error: Exception, args: argparse.Namespace) -> int:
    """Print the error and return its exit code; print a traceback only for unexpected errors."""
    if isinstance(error, ConfigError):
        return report_failure(error, False)
    for words, meaning in _MEANINGS.items():
        if words in str(error) and (meaning is not _PEER_GONE or _is_one_of_several()):
            print(
                escape_controls(f"{args.config}: training failed: {meaning}; {resume_hint(args.output)}"),
                file=sys.stderr,
            )
            return FAILED
    if is_out_of_memory(error):
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        print(
            escape_controls(
                f"{args.config}: training failed: there is not enough memory ({reason}); halve training.batch_size and double "
                "training.gradient_accumulation_steps, which trains the same, or make the model or sequence_length "
                f"smaller; {resume_hint(args.output)}"
            ),
            file=sys.stderr,
        )
        return FAILED
    code: int = getattr(error, "exit_code", FAILED)
    if code != FAILED and not _is_main():
        return code  # all processes find the same error, and the main one reports it
    if not isinstance(error, ValueError | OSError | MemoryError | ImportError):
        print(escape_controls("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    message = _extract_worker_error(str(error))
    hint = "; set training.ddp_find_unused_parameters: true" if "find_unused_parameters" in str(error) else ""
    failed = "training failed: " if code == FAILED else ""
    print(escape_controls(f"{args.config}: {failed}{message}{hint}"), file=sys.stderr)
    return code


def _extract_worker_error(message: str) -> str:
    """Extract the error of a data loading process from the traceback in torch's message."""
    _, found, trace = message.partition("Original Traceback (most recent call last):")
    errors = re.split(r"^[\w.]+(?:Error|Exception): ", trace, flags=re.MULTILINE) if found else []
    return errors[-1].rstrip() if len(errors) > 1 else message


def _is_one_of_several() -> bool:
    """Return True if several processes train, so that a lost connection may be to one of them."""
    return world_size() > 1


def _is_main() -> bool:
    """Return True in the main process, which prints messages."""
    return is_main()


def _describe_result(result: TrainResult) -> str:
    """Describe a finished run, for standard output."""
    run = result.folder
    if result.was_finished:
        return f"{run}: this run is finished; its weights are in {run.weights}"
    early = ", stopped early," if result.stopped_early else ""
    return f"{run}: trained{early} to step {result.steps:,} in {describe_seconds(result.seconds)}; weights in {run.weights}, curves in {run.curves}"
