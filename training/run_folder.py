"""A run's folder: what lies where, who may write to it, and the model, tokenizer and config read back from it.

RUN/config.yml          the experiment, every default written out
RUN/model.safetensors   the trained weights; it is written last, so that a folder with it is a finished run
RUN/tokenizer/          the tokenizer, as `data_manager.tokenizer_load.load_tokenizer` reads it
RUN/rows.json           a hash of the rows of each split
RUN/lengths.json        of diffusion over whole documents: how long those of the training split are
RUN/metrics.jsonl       a line each `logging_steps` and each evaluation
RUN/curves.png          losses and learning rate
RUN/samples.txt         what the model wrote at each evaluation
RUN/environment.json    versions and machine of each session
RUN/checkpoint-N/       what `--resume` goes on from, see `training.checkpoints`
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiment.config import ExperimentConfig, read_experiment
from training.checkpoints import clean, newest
from training.durable import write_text
from training.errors import FolderInUseError, RunFolderError, TrainingError
from yaml_config.dump import dump
from yaml_config.errors import ConfigError
from yaml_config.schema_version import stamped

if TYPE_CHECKING:
    from torch import nn

    from data_manager.tokenizer_base import Tokenizer

_LOCK = ".lock"


class Run(NamedTuple):
    """A trained model, its data set's tokenizer (None where it has none) and the experiment it comes from."""

    model: "nn.Module"
    tokenizer: "Tokenizer | None"
    config: ExperimentConfig


class RunFolder:
    """Paths of a run, and its lock."""

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
        self.environment = self.path / "environment.json"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_empty(self) -> bool:
        """True where nothing is there, or nothing but what a process that was killed at once left behind."""
        if self.path.exists() and not self.path.is_dir():
            raise FolderInUseError(f"{self} is a file; give a folder for the run")
        return not self.path.exists() or all(path.name.startswith(".") for path in self.path.iterdir())

    @property
    def is_finished(self) -> bool:
        """Whether the run went to its end."""
        return self.weights.is_file()

    def read_config(self) -> ExperimentConfig:
        """The experiment; raises RunFolderError where config.yml is missing or damaged."""
        if not self.config.is_file():
            raise RunFolderError(f"{self.config} is not there; a run folder has one")
        try:
            return read_experiment(self.config).config
        except ConfigError as error:
            raise RunFolderError(f"{self.config} cannot be read as an experiment:\n{error}") from error

    def write_config(self, config: ExperimentConfig) -> None:
        """Write the experiment with every default."""
        write_text(self.config, dump(stamped(config.to_dict())))

    def _refuse_links(self) -> None:
        """What is written here goes nowhere else; raises FolderInUseError for a link among the run's own files."""
        own = [path for path in vars(self).values() if path != self.path]
        for path in (*own, self.path / _LOCK, *self.path.glob("checkpoint-*")):
            if path.is_symlink():
                raise FolderInUseError(f"{path} is a link, and a run writes into its own folder alone; remove the link")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder is this process's alone inside the block; made where missing, and rid of what a kill left.

        One that was made here and is still empty at the end is taken away again.

        Raises FolderInUseError while another process has it. The lock ends with the process, however that ends.
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
            clean(self.path)
            try:
                yield
            finally:
                if is_new and [path.name for path in self.path.iterdir()] == [_LOCK]:
                    (self.path / _LOCK).unlink()  # the run failed before it wrote anything
                    self.path.rmdir()


def load_run(folder: str | os.PathLike[str], *, device: str | None = None) -> Run:
    """Model (in evaluation mode), tokenizer and config of a run folder, wherever it has been copied to.

    A run that is not finished gives the weights of its last checkpoint. `device` replaces the one that it was trained
    on. Raises RunFolderError for a file that is missing or damaged, DeviceError for a device not on this machine.
    """
    run = RunFolder(folder)
    config = run.read_config()
    if config.model is None:
        raise RunFolderError(f"{run.config} has no section 'model'")
    checkpoint = None if run.is_finished else newest(run.path)
    if not run.is_finished and checkpoint is None:
        raise RunFolderError(f"{run.weights} is not there, nor a checkpoint; train it with --resume")
    tokenizer = _load_tokenizer(run, config)
    from training.network import build_network, restore_network

    network, task = build_network(config, tokenizer, device=device)
    restore_network(network, task, config, checkpoint.folder if checkpoint else run.path)
    return Run(network.eval(), tokenizer, config)


def _load_tokenizer(run: RunFolder, config: ExperimentConfig) -> "Tokenizer | None":
    from data_manager.tokenizer_load import load_tokenizer

    if run.tokenizer.is_dir():
        return load_tokenizer(run.tokenizer)
    if any(getattr(entry, "tokenizer", None) is not None for entry in config.datasets or ()):
        raise RunFolderError(f"{run.tokenizer} is not there; copy it from where the model was trained")
    return None


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, where a second process is not kept out
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by workers that outlive us
    except OSError:
        return False
    return True
