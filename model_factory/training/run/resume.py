"""Resume plan: start a run from scratch, from a checkpoint, or not at all because it is finished.

A run may be continued with another config: `--resume --set training.max_steps=300`. What changes is written to
`history.json`, and keys that cannot change once there are weights are refused with the reason.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from data_manager.paths import full_path
from data_manager.rows.token_stream import Bookmark
from data_manager.tokenizers.base import Tokenizer
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.errors import FolderInUseError, RunFolderError, UnfitError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import (
    ROW_ORDER,
    Checkpoint,
    find_newest_checkpoint,
    read_bookmark,
    read_json,
)
from model_factory.training.run.folder import RunFolder
from model_factory.training.share import Share
from model_factory.yaml_config.schema_version import add_version

FREE = (
    *("training.save_steps", "training.save_total_limit", "training.logging_steps", "training.report_to"),
    *(
        "training.run_name",
        "training.project",
        "training.tags",
        "training.dataloader_num_workers",
        "training.dataloader_pin_memory",
        "training.peak_tflops",
        "training.ddp_find_unused_parameters",
        "training.activation_checkpointing",
        "generation",
        "global_config",
    ),
    "model.name",
)
"""Keys that may change silently: they do not affect the weights."""
SHARED = ("training.batch_size", "training.gradient_accumulation_steps")
"""Keys that change silently as long as an optimiser step has as many rows as before."""
_RESOLVED = (
    *("vocab_size", "task", "num_labels", "eval_split", "train_split", "dataset"),
    *("model.length", "condition.mean", "condition.std"),
)
_STEPS = (("num_train_epochs", "max_steps"), ("warmup_ratio", "warmup_steps"), ("warmup_ratio", "warmup_ratio"))
"""Keys of `training`, and those that are computed from them once the number of rows is known."""
_FIXED = {
    "model": "the weights in its checkpoint are those of this model",
    "training.task": "the weights in its checkpoint are those of this task",
    "training.num_labels": "the weights in its checkpoint are those of the number of classes then",
    "training.lora": "its checkpoint has the weights of these adapters",
    "training.optim": "its checkpoint has the moments of this optimiser",
    "training.fsdp": "its checkpoint has the optimiser's moments in the layout of this setting",
    "training.init_from": "it is read where a run starts, and this one has started",
    "training.seed": "the order of the rows, dropout and noise follow from it",
    "training.speech.subsampling": "the weights in its checkpoint are those of this network",
    "training.speech.channels": "the weights in its checkpoint are those of this network",
    "training.speech.num_speakers": "the weights in its checkpoint are those of this network",
}
_TOKENIZER = "the model was trained on the ids of this tokenizer"
_CLASSES = "the model was trained on the numbers of these classes"
_MISSING = object()
DATA = ("datasets", "training.dataset", "training.train_split")
"""Beginnings of keys that change the rows to train on."""


@dataclass(frozen=True)
class Change:
    """Key of a config whose value changes when a run continues."""

    key: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} before, {_shown(self.after)} from here"

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `history.json`."""
        values = {"before": self.before, "after": self.after}
        return {"key": self.key, **{name: value for name, value in values.items() if value is not _MISSING}}


@dataclass(frozen=True)
class ResumePlan:
    """Plan for a run: its checkpoint to resume from, or that it is finished; neither is set for a new run."""

    checkpoint: Checkpoint | None = None
    is_finished: bool = False
    changes: tuple[Change, ...] = ()

    @property
    def step(self) -> int:
        """Return the number of steps done."""
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def changes_step_rows(self) -> bool:
        """Return True if the number of rows of an optimiser step changes."""
        return any(change.key in SHARED for change in self.changes)

    @property
    def changes_data(self) -> bool:
        """Return True if the data set is another one, or may have other rows."""
        return any(change.key.startswith(DATA) for change in self.changes)

    def changes_entry(self, name: str) -> bool:
        """Return True if the config of the data set `name` changes."""
        return any(change.key.startswith(f"datasets.{name}.") for change in self.changes)

    def bookmark(self, *, has_new_data: bool) -> Bookmark:
        """Return where a stream of rows continues; new data begin at their first row. Raises RunFolderError."""
        return Bookmark() if self.checkpoint is None or has_new_data else read_bookmark(self.checkpoint.folder)

    def row_order(self, *, has_new_data: bool) -> int:
        """Return the version of the order of rows: the checkpoint's, or the newest for a new run and for new data."""
        return ROW_ORDER if self.checkpoint is None or has_new_data else self.checkpoint.manifest.row_order

    def row_offset(self, step_rows: int, *, has_new_data: bool) -> int:
        """Return the position in the stream of rows at which step 0 would begin, so that the run goes on where it was.

        `step_rows` are the rows of an optimiser step from now on. New data begin at their first row.
        """
        if self.checkpoint is None:
            return 0
        manifest = self.checkpoint.manifest
        return (0 if has_new_data else manifest.rows_seen) - manifest.step * step_rows


def plan_resume(run: RunFolder, config: ExperimentConfig, *, resume: bool, world: int = 1) -> ResumePlan:
    """Decide from `--output` and `--resume` how the run starts; write nothing.

    `world` is the number of processes. A finished run continues if the config differs in a key that affects the weights. Raises FolderInUseError if the
    folder is not empty and `resume` is False or it is not a run folder, UnfitError if a key differs that cannot change
    or no step is left to do, RunFolderError if the newest checkpoint is damaged.
    """
    if run.is_empty:
        return ResumePlan()
    if not resume:
        raise FolderInUseError(f"{run} is not empty; give another --output, or continue the run in it with --resume")
    if not run.config.is_file():
        raise FolderInUseError(
            f"{run} is not empty and has no config.yml, so it is not a run folder; give another --output"
        )
    if run.is_finished and not find_changes(run.read_config(), config, run):
        return ResumePlan(is_finished=True)
    checkpoint = find_newest_checkpoint(run.path)
    if checkpoint is None:
        if run.is_finished:
            raise UnfitError(
                f"{run} is finished, and its last checkpoint is not there, so it cannot continue with other settings; with "
                f"training.init_from: {run} a new run starts from its weights"
            )
        return ResumePlan()
    then = run.read_config()
    changes = (*find_changes(then, config, run), *_find_step_changes(then, config, checkpoint, world))
    if changes and config.training is not None and config.training.num_train_epochs is None:
        check_steps_left(config.training, checkpoint, run)
    return ResumePlan(checkpoint, changes=changes)


def check_steps_left(settings: TrainingConfig, checkpoint: Checkpoint, run: RunFolder) -> None:
    """Raise UnfitError if a run that continues with another config has no step left to do."""
    if settings.max_steps <= checkpoint.step and settings.num_train_epochs is not None:
        raise UnfitError(
            f"{run} has done {checkpoint.step:,} steps, and training.num_train_epochs {settings.num_train_epochs:g} ends at step "
            f"{settings.max_steps:,}; to continue the run, give more: --resume --set training.num_train_epochs="
            f"{2 * settings.num_train_epochs * checkpoint.step / settings.max_steps:g}"
        )
    if settings.max_steps <= checkpoint.step:
        raise UnfitError(
            f"{run} has done {checkpoint.step:,} steps, and training.max_steps is {settings.max_steps:,}; to continue the run, "
            f"give a larger one: --resume --set training.max_steps={2 * checkpoint.step}"
        )


def find_changes(then: ExperimentConfig, now: ExperimentConfig, run: RunFolder) -> tuple[Change, ...]:
    """Return the keys in which the config `now` differs from the run's config `then`, and which affect the weights.

    A key that is left out now and was filled in from the data then (vocabulary, task) counts as equal. Raises UnfitError
    that lists every key that cannot change, with the reason.
    """
    before, after = _plain(then), _plain(now)
    found = [Change(*change) for change in _differences(before, _with_same_tokenizers(after, before, run), "")]
    changes = [change for change in found if not _is_free(change, now) and change.key not in SHARED]
    fixed = [(change, reason) for change in changes if (reason := _reason(change, run)) is not None]
    if fixed:
        lines = "".join(
            f"\n  {change.key}: {_shown(change.before)} then, {_shown(change.after)} now; {reason}"
            for change, reason in fixed
        )
        raise UnfitError(
            f"{run} was trained with another config:{lines}\n"
            f"restore these keys, or give another --output for a new run; with training.init_from: {run} it starts from "
            "the weights of this run"
        )
    return tuple(changes)


def _find_step_changes(
    then: ExperimentConfig, now: ExperimentConfig, checkpoint: Checkpoint, world: int
) -> list[Change]:
    """Return the changed keys that change the number of rows of a step; more processes share the rows of a step."""
    assert then.training is not None
    assert now.training is not None
    before, after = (
        Share(one.batch_size, one.gradient_accumulation_steps, world) for one in (then.training, now.training)
    )
    if after.rows in (before.rows, checkpoint.manifest.batch_rows):
        return []
    keys = [key.removeprefix("training.") for key in SHARED]
    pairs = [(f"training.{key}", getattr(then.training, key), getattr(now.training, key)) for key in keys]
    return [Change(*pair) for pair in pairs if pair[1] != pair[2]]


def _plain(config: ExperimentConfig) -> dict[str, Any]:
    """Return the config with its data sets by name, so that one more is one change."""
    sections = config.to_dict()
    return sections | {"datasets": {entry["name"]: entry for entry in sections.get("datasets") or ()}}


def _with_same_tokenizers(now: dict[str, Any], then: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """Return the plain config `now` in which `tokenizer: {run: RUN}` of the run itself is written as in `then`."""
    own = full_path(run.path)
    for name, entry in now["datasets"].items():
        named = (entry.get("tokenizer") or {}).get("run")
        if named is not None and full_path(named) == own and "tokenizer" in then["datasets"].get(name, {}):
            entry["tokenizer"] = then["datasets"][name]["tokenizer"]
    return now


def _is_free(change: Change, now: ExperimentConfig) -> bool:
    """Return True for a key that does not affect the weights, or that is filled in from the data later."""
    key = change.key
    training = now.training
    computed = {f"training.{name}" for given, name in _STEPS if getattr(training, given, None) is not None}
    return (
        key.startswith(FREE)
        or (key.startswith("model") and key.endswith(".device"))
        or key in computed
        or (change.after is None and key.endswith(_RESOLVED))
    )


def _reason(change: Change, run: RunFolder) -> str | None:
    """Return the reason why a key cannot change once there are weights, None if it can."""
    key = change.key
    if key.startswith("model.") and key.endswith(".dropout"):
        return None
    for fixed, reason in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            return reason
    if key == "training.ema_decay" and None in (change.before, change.after):
        return "its checkpoint has the average of all steps, or none"
    if key.startswith("datasets."):
        parts = key.split(".")
        if "classes" in parts:
            return _CLASSES
        if "tokenizer" in parts:
            return _TOKENIZER
    return None


def take_free_keys(config: Any, given: Any) -> Any:
    """Return a model's `config` with each `device` and `dropout` of the config `given`, which is of the same types."""
    if type(config) is not type(given) or not isinstance(config, BaseModel):
        return config
    update = {}
    for name in type(config).model_fields:
        mine, theirs = getattr(config, name), getattr(given, name)
        update[name] = theirs if name in ("device", "dropout") else take_free_keys(mine, theirs)
    return config.model_copy(update=update)


def is_saved_tokenizer(tokenizer: Tokenizer, folder: Path) -> bool:
    """Return True if a tokenizer is the one that was saved in `folder`: it would write the same files."""
    with TemporaryDirectory() as place:
        now = Path(place) / "tokenizer"
        tokenizer.save(now)
        return _contents(now) == _contents(folder)


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read_history(run: RunFolder) -> list[dict[str, Any]]:
    """Read the configs of a run with the steps from which they applied, an empty list for a run with one config.

    Each is a dictionary of `from_step`, `changed` and `config`. Raises RunFolderError for a damaged file.
    """
    if not run.history.is_file():
        return []
    held = read_json(run.history)
    found = held.get("configs") if isinstance(held, dict) else None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and type(one.get("from_step")) is int for one in found
    ):
        raise RunFolderError(f"{run.history} does not hold a list of configs with from_step")
    return found


def record_changes(run: RunFolder, config: ExperimentConfig, changes: tuple[Change, ...], step: int) -> None:
    """Write to history.json that `config` applies from `step` on; entries of steps that are repeated are dropped."""
    earlier = [one for one in read_history(run) if one["from_step"] < step]
    if not earlier:
        earlier = [{"from_step": 0, "changed": [], "config": run.read_config().to_dict()}]
    entry = {"from_step": step, "changed": [change.as_dict() for change in changes], "config": config.to_dict()}
    write_text(run.history, json.dumps(add_version({"configs": [*earlier, entry]}), indent=1) + "\n")


def plan_share(settings: TrainingConfig, plan: ResumePlan, world: int, rank: int) -> Share:
    """Divide the rows of an optimiser step over `world` processes.

    A resumed run keeps its rows per step, unless the config changes them. Raises UnfitError if the number of rows is not
    divisible in this way.
    """
    share = Share(settings.batch_size, settings.gradient_accumulation_steps, world, rank)
    if plan.checkpoint is None or plan.checkpoint.manifest.batch_rows == share.rows:
        return share
    manifest = plan.checkpoint.manifest
    parts, rest = divmod(manifest.batch_rows, settings.batch_size * world)
    if plan.changes_step_rows:
        return share
    if rest or manifest.world == world:
        raise UnfitError(
            f"a step of this run has {manifest.batch_rows} rows; training.batch_size {settings.batch_size} in {world} "
            f"process{'es' if world > 1 else ''} with gradient_accumulation_steps "
            f"{settings.gradient_accumulation_steps} makes {share.rows}; choose them so that their product is "
            f"{manifest.batch_rows}"
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
    if value is _MISSING:
        return "absent"
    return "given" if isinstance(value, Mapping) else repr(value) if isinstance(value, str) else str(value)
