"""Sweep folder: `sweep.json`, which says what the sweep trains, the lock, and the folders and logs of its runs.

SWEEP/sweep.json        config, values and points; another sweep in the folder is refused
SWEEP/NAME/             the run folder of each point
SWEEP/logs/NAME.log     what the run printed, of all its sessions
SWEEP/optuna.db         the study of an Optuna search, unless --storage names a database
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_factory.training.errors import FolderInUseError, RunFolderError, TrainingError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import read_json
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.resume import FREE
from model_factory.yaml_config.schema_version import add_version

MANIFEST = "sweep.json"
_LOCK = ".sweep.lock"
_MAY_CHANGE = ("config", "set", "plugin", "points")
"""Entries that may change: those that `experiment` covers, and the points, which become more."""


class SweepFolder:
    """Paths of a sweep's files, its manifest and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / MANIFEST
        self.logs = path / "logs"
        self.study = path / "optuna.db"

    def __str__(self) -> str:
        return str(self.path)

    def run(self, name: str) -> Path:
        """Return the run folder of a point."""
        return self.path / name

    def log(self, name: str) -> Path:
        """Return the file for what the run of a point prints."""
        return self.logs / f"{name}.log"

    def read(self) -> dict[str, Any]:
        """Read sweep.json; raise RunFolderError if it is missing or damaged."""
        content = read_json(self.manifest)
        points = content.get("points") if isinstance(content, dict) else None
        if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
            raise RunFolderError(f"{self.manifest} does not list the points of a sweep; restore it")
        return dict(content)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Create the folder and lock it inside the block; give the descriptor of the lock, which runs inherit.

        Raises FolderInUseError for a folder of something else, or in which a sweep or a run of it is still working.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FolderInUseError(f"{self} is a file; give a folder for the sweep")
        if self.path.is_dir() and not self.manifest.exists() and any(p.name != _LOCK for p in self.path.iterdir()):
            raise FolderInUseError(f"{self} is not empty and has no {MANIFEST}; give another --output")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise TrainingError(f"{self} cannot be written: {error}") from error
        try:
            if not _lock(descriptor):
                raise FolderInUseError(
                    f"{self}: another sweep, or a run that it started, is still working in this folder; wait for its end"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def begin(self, content: Mapping[str, Any]) -> None:
        """Write sweep.json, or check that the folder holds this sweep; raise FolderInUseError that lists what differs.

        A folder in which no run has begun may take another sweep. Points are only added, since those of an Optuna search
        are not known before.
        """
        points = list(content["points"])
        if self.manifest.exists() and self.begun_runs():
            held = self.read()
            if differing := list(_differences(held, content)):
                raise FolderInUseError(
                    f"{self} holds another sweep:\n  "
                    + "\n  ".join(differing)
                    + "\nrestore these, or give another --output"
                )
            points = list(dict.fromkeys([*held["points"], *points]))
        self.logs.mkdir(exist_ok=True)
        self._write({**content, "points": points})

    def add_point(self, name: str) -> None:
        """Add the name of a run folder to sweep.json, unless it is there."""
        content = self.read()
        if name not in content["points"]:
            self._write({**content, "points": [*content["points"], name]})

    def _write(self, content: Mapping[str, Any]) -> None:
        try:
            write_text(self.manifest, json.dumps(add_version(content), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise TrainingError(f"{self.manifest} cannot be written: {error}") from error

    def begun_runs(self) -> list[Path]:
        """Return the folders of the points whose run has begun, in the order of the points."""
        return [self.run(name) for name in self.read()["points"] if RunFolder(self.run(name)).config.is_file()]


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process and those that inherit it; return False if another one holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows, where a second sweep is not locked out
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _differences(held: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each entry in which the sweep of the folder differs from the one asked for."""
    swept = {*held.get("axes", {}), *now["axes"], "training.seed"}
    for key in dict.fromkeys([*held, *now]):
        before, after = held.get(key), now.get(key)
        if key == "experiment":
            yield from _config_differences(before, after, swept)
        elif key == "axes":
            yield from _axis_differences(before or {}, after or {}, can_grow=now.get("search") == "grid")
        elif key not in _MAY_CHANGE and before != after:
            yield f"{key}: {_shown(before)} then, {_shown(after)} now"


def _axis_differences(held: Mapping[str, Any], now: Mapping[str, Any], *, can_grow: bool) -> Iterator[str]:
    """Yield a line for each key with other values; those of a grid may become more."""
    for key in dict.fromkeys([*held, *now]):
        before, after = held.get(key), now.get(key)
        grows = can_grow and isinstance(before, list) and isinstance(after, list) and {*before} <= {*after}
        if before != after and not grows:
            yield f"{key}: {_shown(before)} then, {_shown(after)} now"


def _config_differences(held: object, now: object, swept: set[str], path: str = "") -> Iterator[str]:
    """Yield a line for each key with another value; a key that only one config has is one that a version added."""
    if path in swept or path.startswith(FREE):
        return
    if isinstance(held, Mapping) and isinstance(now, Mapping):
        for key in (key for key in held if key in now):
            yield from _config_differences(held[key], now[key], swept, f"{path}.{key}" if path else str(key))
    elif isinstance(held, list) and isinstance(now, list) and len(held) == len(now):
        for index, (before, after) in enumerate(zip(held, now, strict=True)):
            yield from _config_differences(before, after, swept, f"{path}.{index}")
    elif held != now:
        yield f"{path}: {_shown(held)} then, {_shown(now)} now"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
