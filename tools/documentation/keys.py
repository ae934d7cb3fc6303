"""Collect every key of an experiment config by walking the config types."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args

from pydantic.fields import FieldInfo

from model_factory.experiment.json_schema import describe_every_type
from model_factory.yaml_config.model_tree import registry_of
from model_factory.yaml_config.strict_model import StrictModel
from tools.documentation.cells import default_text, meaning_and_unit, range_text, type_text

Type = type[StrictModel]
TAGS = ("type", "source")
"""Keys that only select a type."""
NOT_IN_A_FILE = ("global_config",)
"""Fields of an entry of `datasets` that have a separate section in the file."""


@dataclass(frozen=True)
class Key:
    """Key of a type with its documentation; `inside` are the types of its nested values."""

    name: str
    meaning: str
    unit: str
    type: str
    default: str
    range: str
    inside: tuple[Type, ...]

    @property
    def is_number(self) -> bool:
        """Return True if the value may be a number, which needs a unit; [1] is the unit of a plain number."""
        return "number" in self.type


@dataclass(frozen=True)
class Part:
    """Config type at its first path in the file.

    `tags` are the values of `type`, `source` or `model_type` that select it, `bases` the types whose keys it inherits. A
    `shared` part only provides inherited keys.
    """

    path: str
    tags: tuple[str, ...]
    type: Type
    bases: tuple[Type, ...]
    keys: tuple[Key, ...]
    shared: bool

    @property
    def heading(self) -> str:
        """Return the title of its table, unique on a page."""
        if self.shared:
            return f"{self.path}: keys of {self.type.__name__}"
        return self.path if not self.tags else f"{self.path}: {' or '.join(self.tags)}"


class Walk:
    """Walker that collects the parts below the sections, each type once, base types first."""

    def __init__(self) -> None:
        describe_every_type()
        self.parts: dict[Type, Part] = {}

    def add(self, path: str, model: Type, tags: tuple[str, ...] = (), shared: bool = False) -> None:
        """Describe `model` at `path`, and all types inside it."""
        if model in self.parts:
            return
        bases = tuple(base for base in model.__bases__ if issubclass(base, StrictModel) and base.model_fields)
        for base in bases:
            self.add(path, base, shared=True)
        self.parts[model] = Part(path, tags, model, bases, tuple(_own_keys(model, bases)), shared)
        for name, field in model.model_fields.items():
            if not field.exclude and name not in NOT_IN_A_FILE:
                self.add_tagged(f"{path}.{field.alias or name}", _types_inside(field))

    def add_tagged(self, path: str, found: Iterable[tuple[str | None, Type]]) -> None:
        """Describe the types at `path`; merge the names of a type with several."""
        names: dict[Type, list[str]] = {}
        for name, model in found:
            names.setdefault(model, []).extend([] if name is None else [name])
        for model, tags in names.items():
            self.add(path, model, tuple(tags))


def _own_keys(model: Type, bases: tuple[Type, ...]) -> Iterator[Key]:
    schema = json_schema(model)
    inherited = {name for base in bases for name in base.model_fields} - set(inspect.get_annotations(model))
    for name, field in model.model_fields.items():
        shown = field.alias or name
        prop = schema["properties"].get(shown)
        is_tag = shown in TAGS and (not field.description or "const" in (prop or {}))
        if prop is not None and name not in inherited and shown not in NOT_IN_A_FILE and not is_tag:
            yield _key(shown, field, prop, schema.get("$defs", {}))


def _key(name: str, field: FieldInfo, prop: dict[str, Any], definitions: dict[str, Any]) -> Key:
    meaning, unit = meaning_and_unit(field.description or "")
    default = field.get_default(call_default_factory=True)
    return Key(
        name=name,
        meaning=meaning,
        unit=unit,
        type=type_text(prop, definitions),
        default="required"
        if field.is_required()
        else default_text(default.name if isinstance(default, Enum) else default),
        range=range_text(prop, definitions),
        inside=tuple(dict.fromkeys(model for _, model in _types_inside(field))),
    )


def _types_inside(field: FieldInfo) -> Iterator[tuple[str | None, Type]]:
    """Yield the types of a field's values, with the names that select them."""
    mark = registry_of(field)
    if mark is not None:
        for name in mark.registry.names():
            config_type = mark.registry.get(name).config_type
            if config_type is not None and (mark.names in (None, "unchecked") or len(config_type.model_fields) > 1):
                yield name, config_type
    for model in _models_in(field.annotation):
        yield None, model


def _models_in(annotation: Any) -> Iterator[Type]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        if annotation is not StrictModel:
            yield annotation
        return
    for argument in get_args(annotation):
        yield from _models_in(argument)


@cache
def json_schema(model: Type) -> dict[str, Any]:
    """Return the type's JSON Schema, with the keys as written in a file."""
    return model.model_json_schema(by_alias=True)
