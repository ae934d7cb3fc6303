"""Resume plan: start a run from scratch, from a checkpoint, or not at all because it is finished."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.errors import FolderInUseError, UnfitError
from model_factory.training.run.checkpoints import Checkpoint, find_newest_checkpoint
from model_factory.training.run.folder import RunFolder
from model_factory.training.share import Share

FREE = (
    *("training.save_steps", "training.save_total_limit", "training.logging_steps", "training.report_to"),
    *("training.dataloader_num_workers", "training.ddp_find_unused_parameters", "generation", "global_config"),
)
"""Keys that may change when a run resumes: they do not affect the weights."""
SHARED = ("training.batch_size", "training.gradient_accumulation_steps")
"""Keys that may change as long as an optimiser step has as many rows as before."""
_RESOLVED = (
    *("vocab_size", "task", "num_labels", "eval_split", "train_split", "dataset"),
    *("model.length", "condition.mean", "condition.std"),
)
_MISSING = object()


@dataclass(frozen=True)
class ResumePlan:
    """Plan for a run: its checkpoint to resume from, or that it is finished; neither is set for a new run."""

    checkpoint: Checkpoint | None = None
    is_finished: bool = False


def plan_resume(run: RunFolder, config: ExperimentConfig, *, resume: bool) -> ResumePlan:
    """Decide from `--output` and `--resume` how the run starts; write nothing.

    Raises FolderInUseError if the folder is not empty and `resume` is False or it is not a run folder, UnfitError if the
    run was trained with another config, RunFolderError if its newest checkpoint is damaged.
    """
    if run.is_empty:
        return ResumePlan()
    if not resume:
        raise FolderInUseError(f"{run} is not empty; give another --output, or continue the run in it with --resume")
    if not run.config.is_file():
        raise FolderInUseError(
            f"{run} is not empty and has no config.yml, so it is not a run folder; give another --output"
        )
    checkpoint = None if run.is_finished else find_newest_checkpoint(run.path)
    if run.is_finished or checkpoint is not None:
        check_same_config(run.read_config(), config, run)
    return ResumePlan(checkpoint, run.is_finished)


def check_same_config(then: ExperimentConfig, now: ExperimentConfig, run: RunFolder) -> None:
    """Raise UnfitError that lists every key in which the run's config `then` differs from the config `now`.

    A key that is left out now and was filled in from the data then (vocabulary, task) counts as equal.
    """
    differing = [
        f"\n  {key}: {_shown(before)} then, {_shown(after)} now"
        for key, before, after in _differences(then.to_dict(), now.to_dict(), "")
        if not key.startswith(FREE) and key not in SHARED and not (after is None and key.endswith(_RESOLVED))
    ]
    if differing:
        raise UnfitError(
            f"{run} was trained with another config:{''.join(differing)}\n"
            f"restore these keys, or give another --output for a new run; with training.init_from: {run} it starts from "
            "the weights of this run"
        )


def plan_share(settings: TrainingConfig, checkpoint: Checkpoint | None, world: int, rank: int) -> Share:
    """Divide the rows of an optimiser step over `world` processes; a resumed run keeps its rows per step.

    Raises UnfitError if the number of rows is not divisible in this way.
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
    """Yield (dotted key, then, now) for each leaf in which two trees differ."""
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
