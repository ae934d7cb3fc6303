"""Registry of tasks: for each name, the models and data that the task fits and its class; no torch is imported.

A custom task is a class decorated with `@register_task`. It is found with `--plugin MODULE` or through the entry point
group `model_factory.tasks`; its base class is `model_factory.training.tasks.base.Task`.

    @register_task("masked_lm", columns=("input_ids",), model_types=("encoder",))
    class MaskedLanguageModelling(Task):
        ...

Built-in tasks are announced by the module and name of their class, which is imported when the task is used. So a config
can be checked against `model_types` and `columns` without torch.
"""

from collections.abc import Callable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import BaseModel

from data_manager.row_types import RESPONSES
from model_factory.yaml_config.from_registry import section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
    from model_factory.training.tasks.base import Task

TaskClass = TypeVar("TaskClass", bound="type[Task]")

BUILT_IN_MODELS = ("encoder", "decoder", "encoder_decoder", "latent_diffusion")
TASKS: "Registry[TaskEntry]" = Registry("task", "model_factory.tasks")


class TaskEntry(NamedTuple):
    """Facts about a task that are known before its class is imported.

    `model_types` are the model types that it trains (None: any type that is not built in), `columns` the columns that
    its data set must have. `config_type` declares the task's own keys, the tag `type` among them (None: it has no keys).
    `responses` is True for a task that learns only the tokens of `response_mask` in rows that have it.
    """

    model_types: tuple[str, ...] | None
    columns: frozenset[str]
    load: "Callable[[], type[Task]]"
    config_type: type[StrictModel] | None = None
    responses: bool = False

    def fits(self, model_type: str, columns: Collection[str]) -> bool:
        """Return True if the task can train a model of this type on rows with these columns."""
        known = model_type not in BUILT_IN_MODELS if self.model_types is None else model_type in self.model_types
        return known and self.columns <= set(columns) and (self.responses or RESPONSES not in columns)

    def describe(self) -> str:
        """Describe the models and columns that the task takes, for messages."""
        models = "a model whose output has a loss" if self.model_types is None else " or ".join(self.model_types)
        return f"{models} with {', '.join(sorted(self.columns))}"


def register_task(
    name: str,
    *,
    columns: Collection[str],
    model_types: tuple[str, ...] | None = None,
    config: type[BaseModel] | None = None,
    responses: bool = False,
) -> Callable[[TaskClass], TaskClass]:
    """Register the decorated `Task` class under `name`; raise ValueError if the name is taken.

    Arguments:
        columns: columns that the data set must have.
        model_types: model types that the task trains; None for any type that is not built in.
        config: type of the task's own keys, `training.task: {type: name, ...}`; unknown keys are then errors.
        responses: True if the task learns only the tokens of the batch's `response_mask`; other tasks are not given such rows.
    """
    keys = None if config is None else section_type(name, config, StrictModel)
    return TASKS.decorator(name, lambda task: TaskEntry(model_types, frozenset(columns), lambda: task, keys, responses))


def announce_task(
    name: str,
    target: str,
    *,
    columns: Collection[str],
    model_types: tuple[str, ...] | None = None,
    responses: bool = False,
) -> None:
    """Register a task by `target`, "module:Class", which is imported only when the task is loaded."""
    module, _, class_name = target.partition(":")

    def load() -> "type[Task]":
        task: type[Task] = getattr(import_module(module), class_name)
        return task

    TASKS.add(name, TaskEntry(model_types, frozenset(columns), load, responses=responses))


def choose_task(model_type: str, columns: Collection[str]) -> str | None:
    """Return the first registered task that fits a model type and the columns of a data set, None if none fits.

    A task that names the model type goes before one for any type that is not built in.
    """
    fitting = [name for name in TASKS if TASKS.get(name).fits(model_type, columns)]
    return min(fitting, key=lambda name: TASKS.get(name).model_types is None, default=None)


announce_task(
    "sequence_classification",
    "model_factory.training.tasks.sequence_classification:SequenceClassification",
    columns=("input_ids", "labels"),
    model_types=("encoder",),
)
announce_task(
    "language_modelling",
    "model_factory.training.tasks.language_modelling:LanguageModelling",
    columns=("input_ids",),
    model_types=("decoder",),
    responses=True,
)
announce_task(
    "translation",
    "model_factory.training.tasks.translation:Translation",
    columns=("source_ids", "target_ids"),
    model_types=("encoder_decoder",),
)
announce_task(
    "speech_recognition",
    "model_factory.training.tasks.speech_recognition:SpeechRecognition",
    columns=("features", "text"),
    model_types=("encoder",),
)
announce_task(
    "diarization",
    "model_factory.training.tasks.diarization:Diarization",
    columns=("features",),
    model_types=("encoder",),
)
announce_task(
    "latent_diffusion",
    "model_factory.training.tasks.latent_diffusion:LatentDiffusion",
    columns=("input_ids",),
    model_types=("latent_diffusion",),
)
announce_task("diffusion", "model_factory.training.tasks.diffusion:Diffusion", columns=("input_ids",), responses=True)
announce_task(
    "conditional_diffusion",
    "model_factory.training.tasks.conditional_diffusion:ConditionalDiffusion",
    columns=("source_ids", "target_ids"),
)
