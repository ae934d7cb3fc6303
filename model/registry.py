"""Registry of model types: name, config type of the section in a file, and builder.

A new model type is one file with a StrictModel for its keys and a builder under `@register_model("name", config=...)`.
It is found when it is imported (`--plugin MODULE`), or through the entry point group `model_factory.models`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

Builder = TypeVar("Builder", bound=Callable[[Any], Any])


class ModelEntry(NamedTuple):
    """One model type; `build` takes a `config_type` and returns an `nn.Module`."""

    config_type: type[StrictModel]
    build: Callable[[Any], Any]


MODELS: Registry[ModelEntry] = Registry("model type", "model_factory.models")


def register_model(name: str, *, config: type[StrictModel]) -> Callable[[Builder], Builder]:
    """Register the decorated builder under `name`; its section is validated by `config`.

    Import torch inside the builder, so that checking a file stays fast. Raises ValueError when the name is taken.
    """
    return MODELS.decorator(name, lambda build: ModelEntry(config, build))


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a model type; raise UnknownNameError, which lists the known names."""
    return MODELS.get(name)
