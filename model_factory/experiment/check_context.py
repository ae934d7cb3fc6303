"""Context of the checks between sections: all sections of a file, and what follows from them; no torch is imported."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from data_manager.dataset_types import DatasetConfig
from data_manager.registry import SOURCES
from data_manager.row_types import RESPONSES, TokensConfig
from data_manager.speech.types import SpeechConfig
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.table_types import ColumnsConfig, HubDatasetConfig
from data_manager.text.types import CorpusConfig, EmbeddedDatasetConfig, FilesConfig
from model.model_types import ModelConfig
from model_factory.experiment.task_registry import TASKS, choose_task
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.check import advice
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import Location

TRAIN_SPLITS = ("train",)
EVALUATION_SPLITS = ("validation", "valid", "val", "dev")
SPEECH_TASKS = ("speech_recognition", "diarization")
DISCRETE, LATENT = "diffusion", "latent_diffusion"

OWN_TASKS = (
    *("sequence_classification", "language_modelling", "translation", *SPEECH_TASKS),
    *("latent_diffusion", "diffusion", "conditional_diffusion"),
)
DIFFUSION_TASKS = ("diffusion", "conditional_diffusion")
"""Tasks of models whose output has a loss: a bound, for discrete diffusion."""


@dataclass(frozen=True)
class Context:
    """All sections of a file (None where absent or invalid), and the tree in which problems find their lines."""

    root: Node
    model: ModelConfig | None = None
    datasets: Sequence[DatasetConfig] = ()
    training: TrainingConfig | None = None
    generation: GenerationConfig | None = None
    will_train: bool = True
    """False for the config of a finished run, whose data and starting weights may have been moved since."""
    knows_data: bool = True
    """False if only other sections of the file are read."""

    @cached_property
    def dataset(self) -> DatasetConfig | None:
        """Return the data set to train on; None without data, or if `training.dataset` does not select one of several."""
        wanted = self.training.dataset if self.training else None
        found = [entry for entry in self.datasets if wanted in (None, entry.name)]
        return found[0] if len(found) == 1 else None

    @property
    def dataset_path(self) -> Location:
        """Return the path of the data set to train on."""
        assert self.dataset is not None
        return ("datasets", [entry.name for entry in self.datasets].index(self.dataset.name))

    @property
    def trains(self) -> bool:
        """Return True if the file trains a model: it has the section `training`, a model and data."""
        return self.will_train and self.training is not None and self.model is not None and bool(self.datasets)

    @cached_property
    def columns(self) -> frozenset[str] | None:
        """Return the columns of the data set to train on; None if unknown."""
        return None if self.dataset is None else columns_of(self.dataset)

    @cached_property
    def splits(self) -> list[str] | None:
        """Return the splits of the data set to train on; None if they are known only after loading."""
        return None if self.dataset is None else splits_of(self.dataset)

    @cached_property
    def task(self) -> str | None:
        """Return the name of the task that is trained; None if nothing is trained, or no task is known to fit."""
        if not self.trains or self.model is None or self.training is None or self.columns is None:
            return None
        kind, wanted = self.model.model_type, self.training.task_name
        if wanted is None:
            return choose_task(kind, self.columns)
        return wanted if TASKS.get(wanted).fits(kind, self.columns) else None

    def problem(self, path: Location, message: str, fix: str | None = None) -> Problem:
        """Return a problem at the nearest node to `path`; `fix` is appended to the message and kept as suggestion."""
        hint = f"; {advice(fix)}" if fix else ""
        return Problem(self.node(path).report_place, dotted(path), "relation", message + hint, fix)

    def unknown(self, path: Location, message: str, name: str, known: Sequence[str]) -> Problem:
        """Return a problem about a name that is not among `known`; the closest one is suggested."""
        near = closest(name, list(known))
        hint = f"; did you mean {near!r}?" if near else ""
        return Problem(self.node(path).report_place, dotted(path), "relation", message + hint, near)

    def node(self, path: Location) -> Node:
        """Return the node of a path, of the default that fills it, or of the closest parent that is in the file."""
        places = [path]
        if len(path) > 2 and path[0] in ("model", "datasets"):
            shared = ("model", "global_config") if path[0] == "model" else ("global_config",)
            places.append((*shared, *path[2:]))
        places += [path[:depth] for depth in range(len(path) - 1, 0, -1)]
        return next((node for place in places if (node := self.root.at(place)) is not None), self.root)

    def has(self, path: Location) -> bool:
        """Return True if the file gives a value at `path`."""
        node = self.root.at(path)
        return node is not None and node.value is not None


Check = Callable[[Context], Iterator[Problem]]


def columns_of(entry: DatasetConfig) -> frozenset[str] | None:
    """Return the columns of a data set's rows; None for a source that a plugin registered."""
    if isinstance(entry, SpeechConfig):
        return frozenset(("features", "text"))
    if not _is_built_in(entry) or not isinstance(entry, TokensConfig):
        return None
    if entry.is_paired:
        return frozenset(("source_ids", "target_ids"))
    columns = {"input_ids"}
    if isinstance(entry, ColumnsConfig) and entry.label is not None:
        columns.add("labels")
    if isinstance(entry, CorpusConfig) and entry.condition_names:
        columns.add("cond")
    if entry.has_responses:
        columns.add(RESPONSES)
    return frozenset(columns)


def splits_of(entry: DatasetConfig) -> list[str] | None:
    """Return the names of a data set's splits; None if they are known only after loading."""
    if isinstance(entry, CorpusConfig) and entry.splits:
        return list(entry.splits)
    if isinstance(entry, FilesConfig) or (isinstance(entry, SpeechConfig) and hasattr(entry, "data_files")):
        return list(entry.data_files)
    if isinstance(entry, EmbeddedDatasetConfig):
        return ["train", "validation", "test"]
    if isinstance(entry, HubDatasetConfig):
        return list(entry.hub_splits()) or None
    if isinstance(entry, MixtureDatasetConfig):
        parts = [splits_of(part) for part in entry.entries]
        known = [part for part in parts if part is not None]
        return list(dict.fromkeys(name for part in known for name in part)) if len(known) == len(parts) else None
    return None


def find_split(names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    """Return the split that is used: the wanted one, one of a usual name, or the first that begins like one."""
    if wanted is not None:
        return wanted if wanted in names else None
    exact = [name for word in usual for name in names if name == word]
    return next(iter([*exact, *(name for word in usual for name in names if name.startswith(word))]), None)


def _is_built_in(entry: DatasetConfig) -> bool:
    return entry.source in SOURCES and type(entry).__module__.startswith("data_manager.")
