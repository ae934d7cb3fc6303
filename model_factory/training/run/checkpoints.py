"""Checkpoints of a run folder: atomic writing, lookup, validation and rotation.

`checkpoint-N` exists only when everything in it is on the disk: it is written as `.writing-checkpoint-N`, synced and
renamed. `checkpoint.json` lists its files with their sizes, so that a truncated file (after a failed copy, for example) is
detected.
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

from data_manager.rows.token_stream import Bookmark
from model_factory.training.errors import RunFolderError
from model_factory.training.run.atomic_io import write_text
from model_factory.yaml_config.schema_version import SchemaVersionError, add_version, parse_json, remove_version

MANIFEST = "checkpoint.json"
STATE, AVERAGE, STREAM = "trainer_state.json", "ema.safetensors", "stream.json"
ROW_ORDER = 2
"""Newest version of the order of rows, see `model_factory.training.row_order`; checkpoints without one have version 1."""
_NAME = re.compile(r"checkpoint-(\d+)")
_LONGEST_NAME = 200
_REMEDY = "copy the folder again from where it was written, or remove it to resume from an earlier one"
_STAGING = ".writing-"
_UNSET: dict[str, Any] = {
    **dict.fromkeys(("epoch", "train_batch_size", "best_global_step", "best_metric"), 0),
    **dict.fromkeys(("best_model_checkpoint", "trial_name"), ""),
    "trial_params": {},
}
"""Example values of the entries of a Trainer's state that may be None, to check their types."""


@dataclass(frozen=True)
class Manifest:
    """Manifest of a checkpoint: step, number of processes, rows per step, rows of the training split, file sizes.

    Step s reads the rows of the stream from position row_offset + s * batch_rows on, in the order of version row_order.
    """

    step: int
    world: int
    batch_rows: int
    split_rows: int
    files: dict[str, int]
    row_offset: int = 0
    row_order: int = 1

    @property
    def rows_seen(self) -> int:
        """Return the position in the stream of rows."""
        return self.row_offset + self.step * self.batch_rows

    def check(self) -> None:
        """Raise ValueError if a number is invalid or a file name points outside the folder."""
        numbers = {"step": self.step, "world": self.world, "batch_rows": self.batch_rows, "split_rows": self.split_rows}
        for name, value in numbers.items():
            if type(value) is not int or not 0 <= value < 2**62:
                raise ValueError(f"{MANIFEST} has {name}: {value!r}")
        if type(self.row_offset) is not int or not 0 <= self.rows_seen < 2**62:
            raise ValueError(f"{MANIFEST} has row_offset: {self.row_offset!r}")
        if type(self.row_order) is not int or not 1 <= self.row_order <= ROW_ORDER:
            raise ValueError(f"{MANIFEST} has row_order: {self.row_order!r}; this version knows 1 to {ROW_ORDER}")
        if self.world < 1 or self.batch_rows < 1:
            raise ValueError(
                f"{MANIFEST} has world: {self.world} and batch_rows: {self.batch_rows}, which must be at least 1"
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
                raise ValueError(f"{MANIFEST} lists {name[:60]!r}, which is not a file of this folder")


@dataclass(frozen=True)
class Checkpoint:
    """Complete checkpoint: its folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Return the number of optimiser steps done."""
        return self.manifest.step

    def history(self) -> list[dict[str, float]]:
        """Return the evaluations so far, the oldest first."""
        state = read_json(self.folder / STATE)
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list) or not all(_is_entry(entry) for entry in history):
            raise RunFolderError(f"{self.folder / STATE} does not hold the evaluations so far as log_history")
        return history

    def check_state(self) -> None:
        """Raise RunFolderError unless trainer_state.json is a valid `TrainerState`; imports transformers."""
        from transformers import TrainerState

        path, expected = self.folder / STATE, vars(TrainerState()) | _UNSET
        state = read_json(path)
        if not isinstance(state, dict) or not state.keys() <= expected.keys():
            raise RunFolderError(f"{path} is not the state of a Trainer; {_REMEDY}")
        if state.get("global_step") != self.step:
            raise RunFolderError(
                f"{path} has global_step {state.get('global_step')!r}, and the checkpoint {self.step}; {_REMEDY}"
            )
        for name, value in state.items():
            if value is not None and not _is_like(value, expected[name]):
                raise RunFolderError(f"{path} has {name}: {str(value)[:60]!r}; {_REMEDY}")


def _is_like(value: object, example: object) -> bool:
    """Return True if a value has the type of the example; int and float are interchangeable."""
    kinds = (int, float) if type(example) in (int, float) else type(example)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(example, bool)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(value, int | float) for value in entry.values())


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return run / f"checkpoint-{step}"


def staging_folder(run: Path, step: int) -> Path:
    """Return the path where the checkpoint of a step is written before it is renamed."""
    return run / f"{_STAGING}checkpoint-{step}"


def list_checkpoint_steps(run: Path) -> list[int]:
    """List the steps of the checkpoints in a run folder, the oldest first."""
    if not run.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in run.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def resume_hint(run: str | Path) -> str:
    """Describe from which step `--resume` would continue."""
    steps = list_checkpoint_steps(Path(run))
    if steps:
        return f"--resume continues from step {steps[-1]:,}"
    return "no checkpoint was written yet; it starts from scratch"


def find_newest_checkpoint(run: Path) -> Checkpoint | None:
    """Return the last checkpoint, None if there is no checkpoint; raise RunFolderError if it is damaged."""
    steps = list_checkpoint_steps(run)
    return read_checkpoint(run, steps[-1]) if steps else None


def read_checkpoint(run: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a step; raise RunFolderError if a file is missing or has the wrong size."""
    folder = checkpoint_folder(run, step)
    earlier = [other for other in list_checkpoint_steps(run) if other < step]
    way_out = f"resume from checkpoint-{earlier[-1]}" if earlier else "start again"
    remedy = f"copy the folder again from where it was written, or remove it to {way_out}"
    try:
        manifest = Manifest(**read_json(folder / MANIFEST))
        manifest.check()
        if manifest.step != step:
            raise ValueError(f"{MANIFEST} is of step {manifest.step}")
    except (RunFolderError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder} is not a complete checkpoint: {error}; {remedy}") from error
    for name, size in manifest.files.items():
        path = folder / name
        if not os.path.isfile(path) or path.resolve() != folder.resolve() / name:
            raise RunFolderError(f"{path} is missing, or a link; {remedy}")
        if path.stat().st_size != size:
            raise RunFolderError(f"{path} has {path.stat().st_size} bytes, and was written with {size}; {remedy}")
    return Checkpoint(folder, manifest)


def write_manifest(
    staging: Path, *, step: int, world: int, batch_rows: int, split_rows: int, row_offset: int, row_order: int
) -> None:
    """Write the manifest of a folder that is otherwise complete."""
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    files = {str(path.relative_to(staging)): path.stat().st_size for path in paths}
    manifest = Manifest(step, world, batch_rows, split_rows, files, row_offset, row_order)
    write_text(staging / MANIFEST, json.dumps(add_version(asdict(manifest)), indent=1) + "\n")


def rotate(run: Path, limit: int | None, best: int | None) -> None:
    """Remove the oldest checkpoints beyond `limit`, but keep the one of step `best`."""
    steps = list_checkpoint_steps(run)
    for step in steps[:-limit] if limit else []:
        if step != best:
            remove(checkpoint_folder(run, step))


def remove(folder: Path) -> None:
    """Remove a checkpoint; rename it first, so that an interrupted removal leaves no partial checkpoint."""
    aside = folder.with_name(f"{_STAGING}removal-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_partial_files(run: Path) -> None:
    """Remove partially written or removed files of a killed process."""
    for path in run.glob(f"{_STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder; raise RunFolderError if it is missing, damaged or of a later version."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return remove_version(content, path) if isinstance(content, dict) else content
    except SchemaVersionError as error:
        raise RunFolderError(str(error)) from error
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def write_bookmark(folder: Path, mark: Bookmark) -> None:
    """Write the bookmark of a checkpoint; raise OSError if the disk is full."""
    write_text(folder / STREAM, json.dumps(add_version(mark.as_dict())) + "\n")


def read_bookmark(folder: Path) -> Bookmark:
    """Read the bookmark of a checkpoint; raise RunFolderError if it is missing or damaged."""
    try:
        return Bookmark.from_dict(read_json(folder / STREAM))
    except ValueError as error:
        raise RunFolderError(
            f"{folder / STREAM} is not a position in a stream: {error}; delete this checkpoint to resume from the one before"
        ) from error


@contextmanager
def explain_load_errors(folder: object) -> Iterator[None]:
    """Raise RunFolderError if torch.load(weights_only=True) finds damage or anything but tensors and plain values."""
    try:
        yield
    except (EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        raise RunFolderError(
            f"{folder}: one of optimizer.pt, scheduler.pt and rng_state.pth is damaged ({type(error).__name__}: {error}); "
            "delete this checkpoint to resume from the one before"
        ) from error
    except pickle.UnpicklingError as error:
        raise RunFolderError(
            f"{folder}: one of optimizer.pt, scheduler.pt and rng_state.pth holds more than numbers, and is not read: it "
            "was not written by train.py, or is damaged; delete this checkpoint to resume from the one before"
        ) from error
