"""Loaded runs: find a run folder, load its model, apply config overrides of the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import DatasetConfig
from data_manager.text.table_types import CsvDatasetConfig
from data_manager.text.types import TextDatasetConfig
from data_manager.tokenizers.from_run import with_tokenizer_of
from model.model_types import ModelConfig
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.training.errors import FolderInUseError, RunFolderError, UnfitError
from model_factory.training.run.checkpoints import list_checkpoint_steps
from model_factory.training.run.folder import RunFolder, restore_run
from model_factory.training.splits import select_dataset
from model_factory.yaml_config.errors import ConfigError, Place, Problem
from model_factory.yaml_config.registry import closest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from data_manager.tokenizers.base import Tokenizer
    from model_factory.training.tasks.base import Task

RUNS = Path("runs")


class NoRunError(FolderInUseError):
    """Error for a missing --run where no run folder exists either."""


@dataclass(frozen=True)
class LoadedRun:
    """Trained model with its folder, tokenizer, config (with the overrides of the command line) and task."""

    folder: Path
    model: "nn.Module"
    tokenizer: "Tokenizer | None"
    config: ExperimentConfig
    task: "Task"

    @property
    def training(self) -> TrainingConfig:
        """Return the `training` section, or its defaults."""
        return self.config.training or TrainingConfig()

    @property
    def generation(self) -> GenerationConfig:
        """Return the `generation` section, or its defaults."""
        return self.config.generation or GenerationConfig()

    @property
    def dataset_config(self) -> DatasetConfig:
        """Return the config of the data set that the run was trained on; a tokenizer of another run is this run's copy.

        An imported run names no data: its rows are as long as its sequences, packed, and tokenised by its tokenizer.
        """
        if not self.has_data:
            return with_tokenizer_of(_unnamed_data(self.config.model), self.folder, always=True)
        return with_tokenizer_of(select_dataset(self.config), self.folder)

    @property
    def has_data(self) -> bool:
        """Return True if the run names the data that it was trained on; an imported run does not."""
        return bool(self.config.datasets)

    @property
    def task_name(self) -> str:
        """Return the name of the task."""
        assert self.training.task_name is not None
        return self.training.task_name

    @property
    def device(self) -> "torch.device":
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def describe_device(self) -> str:
        """Describe the device of the model for a message: `cpu (4 threads)`."""
        from model.device import describe_device

        return describe_device(self.device)

    @property
    def notes(self) -> list[str]:
        """Return notes to print beside samples and figures: that the run is not finished."""
        steps = [] if RunFolder(self.folder).is_finished else list_checkpoint_steps(self.folder)
        if not steps:
            return []
        return [f"this run is not finished: weights of step {steps[-1]:,} of {self.training.max_steps:,}"]

    def require_tokenizer(self) -> "Tokenizer":
        """Return the tokenizer; raises UnfitError where the run has no tokenizer."""
        if self.tokenizer is None:
            raise UnfitError(
                f"{self.folder}: this run has no tokenizer, so it can neither generate text nor be measured on text"
            )
        return self.tokenizer


def _unnamed_data(model: ModelConfig | None) -> DatasetConfig:
    """Return a config of text without files, for a run that names no data set; with classes where the model has them."""
    section: Any = model.config if model is not None else None
    stack = getattr(section, "params", None)
    rows: dict[str, Any] = {
        "name": "data",
        "data_files": {"test": "-"},
        "sequence_length": getattr(section, "length", None) or getattr(stack, "max_length", None),
    }
    if getattr(section, "condition", None) is not None:
        return CsvDatasetConfig(source="csv", label="label", **rows)
    return TextDatasetConfig(rows="packed", **rows)


def newest_run(parent: Path = RUNS) -> Path:
    """Return the run folder below `parent` that was written last; raises NoRunError where there is no run."""
    found = [path.parent for path in _configs(parent)]
    if not found:
        raise NoRunError(f"there is no run folder below ./{parent}; name one: --run FOLDER")
    return max(found, key=_last_written)


def _suggestion(folder: Path) -> str:
    """Suggest a run beside `folder`, or below ./runs, with a similar name."""
    beside = {path.parent.name: path.parent for place in (RUNS, folder.parent) for path in _configs(place)}
    name = closest(folder.name, list(beside))
    return "" if name is None else f"; did you mean {beside[name]}?"


def _configs(parent: Path) -> list[Path]:
    return list(parent.glob("*/config.yml")) if parent.is_dir() else []


def open_run(folder: Path, overrides: Sequence[str] = (), *, device: str | None = None) -> LoadedRun:
    """Load a run's model, with `overrides` (`generation.steps=8`) of its config.

    Raises RunFolderError for a missing or damaged file and for a tokenizer of another size, ConfigError for invalid
    overrides, UnfitError for an override of the model.
    """
    for option in overrides:
        if _section(option) == "model":
            raise UnfitError(
                f"--set {option}: the model of a trained run cannot be changed; train another one with train.py"
            )
    if not folder.is_dir():
        problem = "a file" if folder.exists() else "not there"
        raise RunFolderError(f"{folder} is {problem}; give the folder of a run{_suggestion(folder)}")
    run = RunFolder(folder)
    config = _read_config(run, overrides)
    model, task = restore_run(run, config, device=device)
    tokenizer = task.setting.tokenizer
    _check_tokenizer(run, config, tokenizer)
    return LoadedRun(folder, model, tokenizer, config, task)


def _read_config(run: RunFolder, overrides: Sequence[str]) -> ExperimentConfig:
    """Parse the run's file with the overrides; raise RunFolderError for an invalid file, ConfigError for the overrides."""
    if not overrides:
        return run.read_config()
    try:
        return read_experiment(run.config, overrides, will_train=False).config
    except ConfigError as error:
        run.read_config()  # an invalid file is reported before invalid overrides
        raise type(error)(_name_option(problem, run) for problem in error.problems) from error


def _name_option(problem: Problem, run: RunFolder) -> Problem:
    """Add to a problem with a value of the run's file, which the command cannot edit, the option that takes it out."""
    section, _, key = problem.path.partition(".")
    if problem.place.file != str(run.config) or section != "generation" or key not in GenerationConfig.model_fields:
        return problem
    default = GenerationConfig.model_fields[key].default
    option = f"--set {problem.path}={'null' if default is None else default}"
    return replace(problem, message=f"{problem.message}; for this command, {option} takes it out", suggestion=option)


def _section(override: str) -> str:
    return override.partition("=")[0].strip().partition(".")[0]


def name_override_options(error: ConfigError, flags: dict[str, str]) -> ConfigError:
    """Replace places in an error by the option that the user wrote: `--sampler x` for `--set generation.sampler=x`."""
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
    """Return a model's section and the parts in it."""
    section = getattr(model, "config", None)
    return [section, *(vars(section).values() if section is not None else ())]


def _last_written(folder: Path) -> float:
    files = [folder / name for name in ("config.yml", "metrics.jsonl", "model.safetensors")]
    return max(path.stat().st_mtime for path in files if path.exists())
