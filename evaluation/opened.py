"""A run folder opened for use: found, its model loaded, its file with the options of the command line laid on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.dataset_types import DatasetConfig
from experiment.config import ExperimentConfig, read_experiment
from training.checkpoints import steps_of
from training.config_types import GenerationConfig, TrainingConfig
from training.errors import FolderInUseError, RunFolderError, UnfitError
from training.registry import TASKS
from training.run_folder import RunFolder, load_run
from training.splits import chosen_dataset
from yaml_config.errors import ConfigError, Place
from yaml_config.registry import closest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from data_manager.tokenizer_base import Tokenizer
    from training.tasks.base import Task

RUNS = Path("runs")


class NoRunError(FolderInUseError):
    """No run folder was named, and none is there to be taken."""


@dataclass(frozen=True)
class Opened:
    """A trained model with what belongs to it; `config` has the options of the command line."""

    folder: Path
    model: "nn.Module"
    tokenizer: "Tokenizer | None"
    config: ExperimentConfig
    task: "Task"

    @property
    def training(self) -> TrainingConfig:
        """The `training` section."""
        return self.config.training or TrainingConfig()

    @property
    def generation(self) -> GenerationConfig:
        """The `generation` section, or its defaults."""
        return self.config.generation or GenerationConfig()

    @property
    def entry(self) -> DatasetConfig:
        """The data set that it was trained on."""
        return chosen_dataset(self.config)

    @property
    def task_name(self) -> str:
        """The name of its task."""
        assert self.training.task is not None
        return self.training.task

    @property
    def device(self) -> "torch.device":
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def notes(self) -> list[str]:
        """What is to be said of the run beside all that is drawn from it or measured: that it is not finished."""
        steps = [] if RunFolder(self.folder).is_finished else steps_of(self.folder)
        if not steps:
            return []
        return [f"this run is not finished: weights of step {steps[-1]:,} of {self.training.max_steps:,}"]

    def needs_tokenizer(self) -> "Tokenizer":
        """The tokenizer; raises UnfitError where the run has none."""
        if self.tokenizer is None:
            raise UnfitError(f"{self.folder}: this run has no tokenizer, so there is no text to write or to measure")
        return self.tokenizer


def newest_run(parent: Path = RUNS) -> Path:
    """The folder below `parent` that a run wrote to last; raises NoRunError where there is none."""
    found = [path.parent for path in _configs(parent)]
    if not found:
        raise NoRunError(f"there is no run folder below ./{parent}; name one: --run FOLDER")
    return max(found, key=_last_written)


def _near(folder: Path) -> str:
    """A run beside `folder`, or below ./runs, whose name is nearly the one that was given."""
    beside = {path.parent.name: path.parent for place in (RUNS, folder.parent) for path in _configs(place)}
    name = closest(folder.name, list(beside))
    return "" if name is None else f"; did you mean {beside[name]}?"


def _configs(parent: Path) -> list[Path]:
    return list(parent.glob("*/config.yml")) if parent.is_dir() else []


def open_run(folder: Path, overrides: Sequence[str] = (), *, device: str | None = None) -> Opened:
    """Load a run's model; the options in `overrides` (`generation.steps=8`) are laid on its file, and checked with it.

    Raises RunFolderError for a file that is missing or damaged and for a tokenizer of another size, ConfigError for
    options that do not fit, UnfitError for one that would change the model.
    """
    for option in overrides:
        if option.partition(".")[0].partition("=")[0] == "model":
            raise UnfitError(f"--set {option}: a trained model stays as it is; train another one with train.py")
    if not folder.is_dir():
        told = "a file" if folder.exists() else "not there"
        raise RunFolderError(f"{folder} is {told}; give the folder of a run{_near(folder)}")
    run = RunFolder(folder)
    run.read_config()  # says what is wrong with the folder before options are looked at
    config = read_experiment(run.config, overrides, will_train=False).config
    model, tokenizer, written = load_run(folder, device=device)
    config = config.model_copy(update={"model": written.model})
    _check_tokenizer(run, config, tokenizer)
    from training.tasks.base import TaskSetting

    name = config.training.task if config.training else None
    if name is None:
        raise RunFolderError(f"{run.config} does not name training.task, so it was not written by train.py")
    task = TASKS.get(name).load()(TaskSetting(config, tokenizer))
    return Opened(folder, model, tokenizer, config, task)


def named_after_options(error: ConfigError, flags: dict[str, str]) -> ConfigError:
    """The error with places that name the options which a user wrote: `--sampler x` for `--set generation.sampler=x`."""
    problems = []
    for problem in error.problems:
        option = problem.place.file.removeprefix("--set ")
        place = Place(flags[option]) if option in flags else problem.place
        problems.append(replace(problem, place=place))
    return type(error)(problems)


def _check_tokenizer(run: RunFolder, config: ExperimentConfig, tokenizer: "Tokenizer | None") -> None:
    sizes = {size for part in _parts(config.model) if (size := getattr(part, "vocab_size", None))}
    if tokenizer is not None and sizes and tokenizer.vocab_size > min(sizes):
        raise RunFolderError(
            f"{run.tokenizer} has {tokenizer.vocab_size} tokens, and the model was trained with {min(sizes)}; it is "
            "another run's tokenizer, so copy the folder again from where the model was trained"
        )


def _parts(model: object) -> list[object]:
    """A model's section and the parts in it."""
    section = getattr(model, "config", None)
    return [section, *(vars(section).values() if section is not None else ())]


def _last_written(folder: Path) -> float:
    files = [folder / name for name in ("config.yml", "metrics.jsonl", "model.safetensors")]
    return max(path.stat().st_mtime for path in files if path.exists())
