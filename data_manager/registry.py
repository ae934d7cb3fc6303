"""Registry of data sources: a name, the config type of a `datasets` entry with that `source`, and its loader.

A new source is one file: a subclass of `DatasetConfig` for its keys and a loader under `@register_source`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

Source = TypeVar("Source", bound=Callable[..., Any])
Texts = Callable[[Any], dict[str, Sequence[str]]]


class SourceEntry(NamedTuple):
    """One data source: `load` takes a config of `config_type` and returns `{split: CutSet | datasets.Dataset}`.

    `texts` returns `{split: [text, ...]}`, from which a tokenizer is learned; None if a source has no text.
    """

    config_type: type[StrictModel]
    load: Callable[[Any], dict[str, Any]]
    texts: Texts | None = None


SOURCES: Registry[SourceEntry] = Registry("data source", "model_factory.datasets", "data_manager.sources")


def register_source(name: str, *, config: type[StrictModel], texts: Texts | None = None) -> Callable[[Source], Source]:
    """Register the decorated loader under `name`; an entry with `source: name` is validated by `config`.

    Import heavy libraries inside the loader, so that checking a file stays fast. Raise ValueError if the name is taken.
    """
    return SOURCES.decorator(name, lambda load: SourceEntry(config, load, texts))
