"""Where a run begins: afresh, from a checkpoint, or nowhere because it is finished."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from experiment.config import ExperimentConfig
from training.checkpoints import Checkpoint, newest
from training.config_types import TrainingConfig
from training.errors import FolderInUseError, UnfitError
from training.run_folder import RunFolder
from training.share import Share

FREE = (
    *("training.save_steps", "training.save_total_limit", "training.logging_steps", "training.report_to"),
    *("training.dataloader_num_workers", "training.ddp_find_unused_parameters", "generation", "global_config"),
)
"""Keys that may change when a run goes on: they decide nothing about the weights."""
SHARED = ("training.batch_size", "training.gradient_accumulation_steps")
"""Keys that may change as long as a step has as many rows as before."""
_RESOLVED = (
    *("vocab_size", "task", "num_labels", "eval_split", "train_split", "dataset"),
    *("model.length", "condition.mean", "condition.std"),
)
_MISSING = object()


@dataclass(frozen=True)
class Start:
    """A plan; neither field is set for a run that begins afresh."""

    checkpoint: Checkpoint | None = None
    is_finished: bool = False


def plan_start(run: RunFolder, config: ExperimentConfig, *, resume: bool) -> Start:
    """What `--output` and `--resume` come to; nothing is written.

    Raises FolderInUseError for a folder that holds something else or a run that is not to be resumed, UnfitError where
    the run was trained with another config, RunFolderError where its newest checkpoint is damaged.
    """
    if run.is_empty:
        return Start()
    if not resume:
        raise FolderInUseError(f"{run} is not empty; give another --output, or go on from what is there with --resume")
    if not run.config.is_file():
        raise FolderInUseError(
            f"{run} is not empty and has no config.yml, so it is no run folder; give another --output"
        )
    checkpoint = None if run.is_finished else newest(run.path)
    if run.is_finished or checkpoint is not None:
        compare(run.read_config(), config, run)
    return Start(checkpoint, run.is_finished)


def compare(then: ExperimentConfig, now: ExperimentConfig, run: RunFolder) -> None:
    """Raise UnfitError that names every key by which a run's config differs from the one given now.

    What is left out now and was filled in from the data then (the vocabulary, the task) does not differ.
    """
    differing = [
        f"\n  {key}: {_shown(before)} then, {_shown(after)} now"
        for key, before, after in _differences(then.to_dict(), now.to_dict(), "")
        if not key.startswith(FREE) and key not in SHARED and not (after is None and key.endswith(_RESOLVED))
    ]
    if differing:
        raise UnfitError(
            f"{run} was trained with another config:{''.join(differing)}\n"
            f"set these keys back, or give another --output to begin anew; training.init_from: {run} begins there with "
            "the weights of this run"
        )


def share_of_step(settings: TrainingConfig, checkpoint: Checkpoint | None, world: int, rank: int) -> Share:
    """How `world` processes share a step; a run that goes on keeps the number of rows that its steps had.

    Raises UnfitError where that cannot be divided so.
    """
    share = Share(settings.batch_size, settings.gradient_accumulation_steps, world, rank)
    rows = checkpoint.manifest.batch_rows if checkpoint else share.rows
    if share.rows == rows:
        return share
    assert checkpoint is not None
    parts, rest = divmod(rows, settings.batch_size * world)
    if rest or checkpoint.manifest.world == world:
        raise UnfitError(
            f"a step of this run has {rows} rows; training.batch_size {settings.batch_size} in {world} "
            f"process{'es' if world > 1 else ''} with gradient_accumulation_steps "
            f"{settings.gradient_accumulation_steps} makes {share.rows}; choose them so that their product is {rows}"
        )
    return Share(settings.batch_size, parts, world, rank)


def _differences(then: object, now: object, path: str) -> Iterator[tuple[str, object, object]]:
    """Dotted keys with both values, where two trees differ."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(then.get(key, _MISSING), now.get(key, _MISSING), inner)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (before, after) in enumerate(zip(then, now, strict=True)):
            yield from _differences(before, after, f"{path}.{index}")
    elif then != now:
        yield path, then, now


def _shown(value: object) -> str:
    return "absent" if value is _MISSING else repr(value) if isinstance(value, str) else str(value)
