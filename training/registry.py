"""Registry of tasks: a name, which models and data it fits, and its class; no torch is imported.

A task of your own is a class under `@register_task`, found with `--plugin MODULE` or through the entry point group
`model_factory.tasks`; what it has to offer stands in `training.tasks.base`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from yaml_config.registry import Registry

if TYPE_CHECKING:
    from training.tasks.base import Task

TaskClass = TypeVar("TaskClass", bound="type[Task]")


@dataclass(frozen=True)
class TaskEntry:
    """What is known of a task before its class is imported.

    `model_types` are those that it trains (None: any that is not built in), `columns` what a row of its data has.
    """

    model_types: tuple[str, ...] | None
    columns: frozenset[str]
    load: "Callable[[], type[Task]]"

    def fits(self, model_type: str, columns: Collection[str]) -> bool:
        """Whether the task can train a model of this type on rows with these columns."""
        known = model_type not in BUILT_IN_MODELS if self.model_types is None else model_type in self.model_types
        return known and self.columns <= set(columns)

    def describe(self) -> str:
        """What the task takes, for messages."""
        models = "a model whose output has a loss" if self.model_types is None else " or ".join(self.model_types)
        return f"{models} with {', '.join(sorted(self.columns))}"


BUILT_IN_MODELS = ("encoder", "decoder", "encoder_decoder", "latent_diffusion")
TASKS: Registry[TaskEntry] = Registry("task", "model_factory.tasks")


def register_task(
    name: str, *, columns: Collection[str], model_types: tuple[str, ...] | None = None
) -> Callable[[TaskClass], TaskClass]:
    """Register the decorated `Task` class under `name`; raises ValueError when the name is taken."""

    def register(task: TaskClass) -> TaskClass:
        TASKS.add(name, TaskEntry(model_types, frozenset(columns), lambda: task))
        return task

    return register


def choose_task(model_type: str, columns: Collection[str]) -> str | None:
    """The first registered task that fits a model type and the columns of a data set, None where none does."""
    return next((name for name in TASKS if TASKS.get(name).fits(model_type, columns)), None)


def _built_in(name: str, class_name: str, model_types: tuple[str, ...] | None, *columns: str) -> None:
    def load() -> "type[Task]":
        found: type[Task] = getattr(import_module(f"training.tasks.{name}"), class_name)
        return found

    TASKS.add(name, TaskEntry(model_types, frozenset(columns), load))


_built_in("sequence_classification", "SequenceClassification", ("encoder",), "input_ids", "labels")
_built_in("language_modelling", "LanguageModelling", ("decoder",), "input_ids")
_built_in("translation", "Translation", ("encoder_decoder",), "source_ids", "target_ids")
_built_in("speech_recognition", "SpeechRecognition", ("encoder",), "features", "text")
_built_in("diarization", "Diarization", ("encoder",), "features")
_built_in("latent_diffusion", "LatentDiffusion", ("latent_diffusion",), "input_ids")
_built_in("diffusion", "Diffusion", None, "input_ids")
