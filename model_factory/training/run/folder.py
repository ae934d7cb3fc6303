"""Run folder: its file names, its lock, and loading of the model, tokenizer and config of a run.

RUN/config.yml          the experiment, every default written out
RUN/model.safetensors   the trained weights; written last, so that a folder with this file is a finished run
RUN/tokenizer/          the tokenizer, in the format of `data_manager.tokenizers.load.load_tokenizer`
RUN/rows.json           a hash of the rows of each split
RUN/lengths.json        for diffusion over whole documents: counts of document lengths in the training split
RUN/metrics.jsonl       a line every `logging_steps` and at each evaluation
RUN/curves.png          losses and learning rate
RUN/samples.txt         samples of the model at each evaluation
RUN/history.json        for a run that continued with another config: each config and its first step
RUN/imported.json       for an imported model: where its weights are from
RUN/environment.json    versions and machine of each session
RUN/checkpoint-N/       checkpoint that `--resume` starts from, see `model_factory.training.run.checkpoints`
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_manager.tokenizers.load import load_tokenizer
from model.hub import replacing_weights
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.training.errors import FolderInUseError, RunFolderError, TrainingError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import find_newest_checkpoint, remove_partial_files
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.schema_version import add_version

if TYPE_CHECKING:
    from torch import nn

    from data_manager.tokenizers.base import Tokenizer
    from model_factory.training.tasks.base import Task

_LOCK = ".lock"


class Run(NamedTuple):
    """Trained model, tokenizer of its data set (None if it has no tokenizer) and its experiment."""

    model: "nn.Module"
    tokenizer: "Tokenizer | None"
    config: ExperimentConfig


class RunFolder:
    """Paths of a run's files, and its lock."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yml"
        self.weights = self.path / "model.safetensors"
        self.tokenizer = self.path / "tokenizer"
        self.rows = self.path / "rows.json"
        self.lengths = self.path / "lengths.json"
        self.metrics = self.path / "metrics.jsonl"
        self.curves = self.path / "curves.png"
        self.samples = self.path / "samples.txt"
        self.history = self.path / "history.json"
        self.environment = self.path / "environment.json"
        self.imported = self.path / "imported.json"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_empty(self) -> bool:
        """Return True if the folder is missing or holds only hidden files, left by a process that was killed early."""
        if self.path.exists() and not self.path.is_dir():
            raise FolderInUseError(f"{self} is a file; give a folder for the run")
        return not self.path.exists() or all(path.name.startswith(".") for path in self.path.iterdir())

    @property
    def is_finished(self) -> bool:
        """Return True if the run is finished."""
        return self.weights.is_file()

    def read_config(self) -> ExperimentConfig:
        """Read the experiment; raise RunFolderError if config.yml is missing or damaged."""
        if not self.config.is_file():
            raise RunFolderError(f"{self.config} is not there; every run folder has this file")
        try:
            return read_experiment(self.config, will_train=False).config
        except ConfigError as error:
            raise RunFolderError(f"{self.config} cannot be read as an experiment:\n{error}") from error

    def write_config(self, config: ExperimentConfig) -> None:
        """Write the experiment to config.yml with every default."""
        write_text(self.config, dump(add_version(config.to_dict())))

    def _refuse_links(self) -> None:
        """Raise FolderInUseError if one of the run's files is a link, which would be written outside the folder."""
        own = [path for path in vars(self).values() if path != self.path]
        for path in (*own, self.path / _LOCK, *self.path.glob("checkpoint-*")):
            if path.is_symlink():
                raise FolderInUseError(
                    f"{path} is a link, and a run writes only inside its own folder; remove the link"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process inside the block; create it if missing, remove files of a killed process.

        A folder that was created here and is still empty at the end is removed.

        Raises FolderInUseError if another process holds the lock. The lock is released whenever the process ends.
        """
        is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            file = (self.path / _LOCK).open("a", encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"{self} cannot be written: {error}") from error
        with file:
            if not _lock(file.fileno()):
                raise FolderInUseError(f"{self}: another process is training in this folder")
            remove_partial_files(self.path)
            try:
                yield
            finally:
                if is_new and [path.name for path in self.path.iterdir()] == [_LOCK]:
                    (self.path / _LOCK).unlink()  # the run failed before it wrote anything
                    self.path.rmdir()


def load_run(folder: str | os.PathLike[str], *, device: str | None = None) -> Run:
    """Load the model (in evaluation mode), tokenizer and config of a run folder, which may have been moved.

    The weights of an unfinished run are those of its last checkpoint. `device` replaces the device that it was trained
    on. Raises RunFolderError for a file that is missing or damaged, DeviceError for a device not on this machine.
    """
    run = RunFolder(folder)
    config = run.read_config()
    network, task = restore_run(run, config, device=device)
    return Run(network, task.setting.tokenizer, config)


def restore_run(run: RunFolder, config: ExperimentConfig, *, device: str | None = None) -> "tuple[nn.Module, Task]":
    """Build the network (in evaluation mode) and the task of a parsed run file, and load the run's weights.

    Raises the same errors as `load_run`, except those of reading the file.
    """
    if config.model is None:
        raise RunFolderError(f"{run.config} has no section 'model'")
    checkpoint = None if run.is_finished else find_newest_checkpoint(run.path)
    if not run.is_finished and checkpoint is None:
        raise RunFolderError(f"{run.weights} is not there, nor a checkpoint; train the run with --resume")
    tokenizer = _load_tokenizer(run, config)
    from model_factory.training.network import build_network, restore_network

    with replacing_weights():
        network, task = build_network(config, tokenizer, device=device)
    restore_network(network, task, config, checkpoint.folder if checkpoint else run.path)
    return network.eval(), task


def _load_tokenizer(run: RunFolder, config: ExperimentConfig) -> "Tokenizer | None":
    """Load the tokenizer, None if the data set has no tokenizer."""
    if run.tokenizer.is_dir():
        return load_tokenizer(run.tokenizer)
    if any(getattr(entry, "tokenizer", None) is not None for entry in config.datasets or ()):
        raise RunFolderError(f"{run.tokenizer} is not there; copy it from where the model was trained")
    return None


def _lock(handle: int) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows, where a second process is not locked out
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by workers that outlive us
    except OSError:
        return False
    return True
