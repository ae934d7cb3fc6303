"""Checkpoints of a run folder: written aside and put in place whole, found, checked, counted down.

`checkpoint-N` exists only when everything in it is on the disk: it is written as `.writing-checkpoint-N`, synced and
renamed. `checkpoint.json` says which files belong to it and how long they are, so that one cut short later (by a copy
that failed, say) is told from a whole one.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.durable import write_text
from training.errors import RunFolderError
from yaml_config.json_text import from_json
from yaml_config.schema_version import SchemaVersionError, stamped, unstamped

MANIFEST = "checkpoint.json"
STATE, AVERAGE = "trainer_state.json", "ema.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")
_LONGEST_NAME = 200
_REMEDY = "copy the folder again from where it was written, or remove it to go on from an earlier one"
_STAGING = ".writing-"
_UNSET: dict[str, Any] = {
    **dict.fromkeys(("epoch", "train_batch_size", "best_global_step", "best_metric"), 0),
    **dict.fromkeys(("best_model_checkpoint", "trial_name"), ""),
    "trial_params": {},
}
"""Of what kind those entries of a Trainer's state are that may be None."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint was made with: its step, number of processes, rows of a step, rows of the training split."""

    step: int
    world: int
    batch_rows: int
    split_rows: int
    files: dict[str, int]

    def check(self) -> None:
        """Raise ValueError where a number is none, or a file would lie elsewhere."""
        numbers = {"step": self.step, "world": self.world, "batch_rows": self.batch_rows, "split_rows": self.split_rows}
        for name, value in numbers.items():
            if type(value) is not int or not 0 <= value < 2**62:
                raise ValueError(f"{MANIFEST} has {name}: {value!r}")
        if self.world < 1 or self.batch_rows < 1:
            raise ValueError(
                f"{MANIFEST} has world: {self.world} and batch_rows: {self.batch_rows}, which are at least 1"
            )
        if not isinstance(self.files, dict) or any(type(size) is not int for size in self.files.values()):
            raise ValueError(f"{MANIFEST} does not list files and their sizes")
        for name in self.files:
            if (
                not name
                or len(name) > _LONGEST_NAME
                or Path(name).is_absolute()
                or ".." in Path(name).parts
                or "\0" in name
            ):
                raise ValueError(f"{MANIFEST} lists {name[:60]!r}, which is no file of this folder")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimiser steps that it has behind it."""
        return self.manifest.step

    def history(self) -> list[dict[str, float]]:
        """Evaluations so far, the oldest first."""
        state = read_json(self.folder / STATE)
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list) or not all(_is_entry(entry) for entry in history):
            raise RunFolderError(f"{self.folder / STATE} does not hold the evaluations so far, as log_history")
        return history

    def check_state(self) -> None:
        """Raise RunFolderError unless transformers can take up its own state; imports transformers."""
        from transformers import TrainerState

        path, usual = self.folder / STATE, vars(TrainerState()) | _UNSET
        state = read_json(path)
        if not isinstance(state, dict) or not state.keys() <= usual.keys():
            raise RunFolderError(f"{path} is no state of a Trainer; {_REMEDY}")
        if state.get("global_step") != self.step:
            raise RunFolderError(
                f"{path} has global_step {state.get('global_step')!r}, and the checkpoint {self.step}; {_REMEDY}"
            )
        for name, value in state.items():
            if value is not None and not _is_like(value, usual[name]):
                raise RunFolderError(f"{path} has {name}: {str(value)[:60]!r}; {_REMEDY}")


def _is_like(value: object, usual: object) -> bool:
    """Whether a value is of the kind of the usual one; a whole number is a number too."""
    kinds = (int, float) if type(usual) in (int, float) else type(usual)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(usual, bool)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(value, int | float) for value in entry.values())


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / f"checkpoint-{step}"


def staging_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it gets its name."""
    return run / f"{_STAGING}checkpoint-{step}"


def steps_of(run: Path) -> list[int]:
    """Steps of the checkpoints in a run folder, the oldest first."""
    if not run.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in run.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def newest(run: Path) -> Checkpoint | None:
    """The last checkpoint, None where there is none; raises RunFolderError where that one is damaged."""
    steps = steps_of(run)
    return read_checkpoint(run, steps[-1]) if steps else None


def read_checkpoint(run: Path, step: int) -> Checkpoint:
    """The checkpoint of a step; raises RunFolderError where a file lacks or has another length than it was given."""
    folder = checkpoint_folder(run, step)
    earlier = [other for other in steps_of(run) if other < step]
    way_out = f"go on from checkpoint-{earlier[-1]}" if earlier else "begin again"
    remedy = f"copy the folder again from where it was written, or remove it to {way_out}"
    try:
        manifest = Manifest(**read_json(folder / MANIFEST))
        manifest.check()
        if manifest.step != step:
            raise ValueError(f"{MANIFEST} is of step {manifest.step}")
    except (RunFolderError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder} is not a whole checkpoint: {error}; {remedy}") from error
    for name, size in manifest.files.items():
        path = folder / name
        if not os.path.isfile(path) or path.resolve() != folder.resolve() / name:
            raise RunFolderError(f"{path} is not there, or a link; {remedy}")
        if path.stat().st_size != size:
            raise RunFolderError(f"{path} has {path.stat().st_size} bytes, and was written with {size}; {remedy}")
    return Checkpoint(folder, manifest)


def write_manifest(staging: Path, *, step: int, world: int, batch_rows: int, split_rows: int) -> None:
    """Say in a folder that is otherwise complete what belongs to it."""
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    files = {str(path.relative_to(staging)): path.stat().st_size for path in paths}
    manifest = Manifest(step, world, batch_rows, split_rows, files)
    write_text(staging / MANIFEST, json.dumps(stamped(asdict(manifest)), indent=1) + "\n")


def rotate(run: Path, limit: int | None, best: int | None) -> None:
    """Remove the oldest checkpoints beyond `limit`; the newest and the one of step `best` stay."""
    steps = steps_of(run)
    for step in steps[:-limit] if limit else []:
        if step != best:
            remove(checkpoint_folder(run, step))


def remove(folder: Path) -> None:
    """Remove a checkpoint; one whose removal is interrupted no longer has a checkpoint's name."""
    aside = folder.with_name(f"{_STAGING}removal-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def clean(run: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for path in run.glob(f"{_STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """A JSON file of a run folder; raises RunFolderError where it is missing, damaged or of a later version."""
    try:
        content = from_json(path.read_text(encoding="utf-8"))
        return unstamped(content, path) if isinstance(content, dict) else content
    except SchemaVersionError as error:
        raise RunFolderError(str(error)) from error
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


@contextmanager
def plain_values(folder: object) -> Iterator[None]:
    """Raise RunFolderError where torch, which is asked for plain values alone, finds anything else, or damage."""
    try:
        yield
    except (EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        raise RunFolderError(
            f"{folder}: one of optimizer.pt, scheduler.pt and rng_state.pth is damaged ({type(error).__name__}: {error}); "
            "delete this checkpoint to go on from the one before"
        ) from error
    except pickle.UnpicklingError as error:
        raise RunFolderError(
            f"{folder}: one of optimizer.pt, scheduler.pt and rng_state.pth holds more than numbers, and is not read: it "
            "was not written by train.py, or is damaged; delete this checkpoint to go on from the one before"
        ) from error
