"""Registry of data sources: a name, the type of a `datasets` entry with that `source`, and what loads it.

A new source is one file: a subclass of `DatasetConfig` for its keys and a loader under `@register_source`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from yaml_config.registry import Registry
from yaml_config.strict_model import StrictModel

Source = TypeVar("Source", bound=Callable[..., Any])


@dataclass(frozen=True)
class SourceEntry:
    """`load` takes a `config_type` and gives `{split: CutSet | datasets.Dataset}`."""

    config_type: type[StrictModel]
    load: Callable[[Any], dict[str, Any]]


SOURCES: Registry[SourceEntry] = Registry("data source", "model_factory.datasets")


def register_source(name: str, *, config: type[StrictModel]) -> Callable[[Source], Source]:
    """Register the decorated loader under `name`; an entry with `source: name` is validated by `config`.

    Import heavy libraries inside the loader, so that checking a file stays fast. Raises ValueError for a taken name.
    """

    def register(load: Source) -> Source:
        SOURCES.add(name, SourceEntry(config, load))
        return load

    return register
