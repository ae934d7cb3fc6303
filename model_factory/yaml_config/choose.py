"""Look up the type of a mapping in a registry by one of its keys, and report missing sections."""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, PydanticKnownError, core_schema

from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.messages import choice_error
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import PLUGIN_HINT, Registry, UnknownNameError, closest
from model_factory.yaml_config.strict_model import Location

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Choice(Generic[Entry]):
    """Result of looking up a tag: name and entry (None if unknown), problems, and the mapping without its tag."""

    name: str | None
    entry: Entry | None
    problems: list[Problem]
    body: Node


def choose(
    node: Node, key: str, registry: Registry[Entry], path: Location, default: str | None = None
) -> Choice[Entry]:
    """Look up the value of `key` in a registry; a near miss is a problem, and its entry is used for further checks."""
    tag, body, where = node.child(key), node.without(key), dotted((*path, key))
    if tag is None and default is not None:
        return Choice(default, registry.get(default), [], body)
    if tag is None:
        return _choose_misspelt(node, key, registry, path)
    if not isinstance(tag.value, str):
        message = f"must be one of {', '.join(registry.names())}; got {tag.kind}"
        return Choice(None, None, [Problem(tag.report_place, where, "type", message)], body)
    try:
        return Choice(tag.value, registry.get(tag.value), [], body)
    except UnknownNameError as error:
        near = error.suggestion
        problem = Problem(tag.place, where, "choice", str(error), near)
        return Choice(near, registry.get(near) if near else None, [problem], body)


def _choose_misspelt(node: Node, key: str, registry: Registry[Entry], path: Location) -> Choice[Entry]:
    """Take the key nearest to a missing tag, or report the missing key."""
    near = closest(key, list(node.entries))
    if near is None:
        message = f"missing key {key!r}, one of {', '.join(registry.names())}"
        return Choice(None, None, [Problem(node.report_place, dotted((*path, key)), "missing_key", message)], node)
    wrong = node.entries[near]
    message = f"unknown key {near!r}; did you mean {key!r}?"
    problem = Problem(wrong.key_place or wrong.place, dotted((*path, near)), "unknown_key", message, key)
    found = choose(replace(node, value={**node.without(near).entries, key: wrong}), key, registry, path)
    return replace(found, problems=[problem, *found.problems])


def missing_section(root: Node, name: str) -> Problem:
    """Return the problem of a missing section, or of a key that is near its name."""
    near = closest(name, list(root.entries))
    if near is None:
        return Problem(root.place, name, "missing_key", f"missing section {name!r}")
    wrong = root.entries[near]
    message = f"unknown section {near!r}; did you mean {name!r}?"
    return Problem(wrong.key_place or wrong.place, near, "unknown_key", message, name)


# Fields whose type is selected from a registry by a key inside: `process: {type: absorbing}`.


_NAME_OR_MAPPING = "Input should be a name, or a mapping of a type and its settings"


class HasConfigType(Protocol):
    """Registry entry with a configuration type."""

    @property
    def config_type(self) -> type[BaseModel]:
        """Return the type of the keys, including the tag."""


@dataclass(frozen=True)
class FromRegistry:
    """Annotation of such a field: `Annotated[ProcessConfig, FromRegistry(PROCESSES)]`.

    A mapping is validated by the config type of the entry that its `key` names; an instance of a config type is kept. With
    `or_name` the field may also be a plain name or None: `sampler: ancestral`. `default` is the tag of a mapping without one;
    with `or_none` the field may be None.
    """

    registry: Registry[Any]
    key: str = "type"
    or_name: bool = False
    default: str | None = None
    or_none: bool = False

    def config_type(self, name: object) -> type[BaseModel] | None:
        """Return the type of the mapping whose tag is `name`, None for an unknown tag."""
        try:
            found: type[BaseModel] = self.registry.get(str(name)).config_type
        except UnknownNameError:
            return None
        return found

    def validate(self, value: Any, info: ValidationInfo) -> Any:
        """Return the object that a mapping describes; raises pydantic's errors with locations inside it."""
        if isinstance(value, BaseModel):
            if self.config_type(getattr(value, self.key, None)) is None:
                raise choice_error(self.registry.names(), PLUGIN_HINT)
            return value
        if value is None and (self.or_name or self.or_none):
            return value
        if self.or_name and isinstance(value, str) and value:
            return value
        if not isinstance(value, dict):
            raise (
                PydanticCustomError("name_or_mapping", _NAME_OR_MAPPING)
                if self.or_name
                else PydanticKnownError("dict_type")
            )
        tag = value.get(self.key, self.default)
        if self.key not in value and tag is None:
            near = closest(self.key, list(value))
            kind, loc = ("extra_forbidden", near) if near else ("missing", self.key)
            raise ValidationError.from_exception_data("tag", [{"type": kind, "loc": (loc,), "input": value}])
        config_type = self.config_type(tag)
        if config_type is None:
            wrong = InitErrorDetails(type=choice_error(self.registry.names(), PLUGIN_HINT), loc=(self.key,), input=tag)
            raise ValidationError.from_exception_data("tag", [wrong])
        return config_type.model_validate(value, context=info.context, by_alias=True, by_name=not info.context)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names: dict[type[BaseModel], list[str]] = {}
        for name in self.registry.names():
            names.setdefault(self.registry.get(name).config_type, []).append(name)
        variants: list[dict[str, Any]] = []
        for config_type, tags in names.items():
            tag = {"const": tags[0]} if len(tags) == 1 else {"enum": tags}
            variant = {"allOf": [handler(config_type.__pydantic_core_schema__)], "properties": {self.key: tag}}
            variants.append(variant if self.default in tags else {**variant, "required": [self.key]})
        if self.or_name:
            variants.insert(0, {"type": "string", "minLength": 1})
        if self.or_name or self.or_none:
            variants.insert(int(self.or_name), {"type": "null"})
        return {"anyOf": variants}


def _dump(value: BaseModel | str | None, info: Any) -> dict[str, Any] | str | None:
    if not isinstance(value, BaseModel):
        return value
    return value.model_dump(mode=info.mode, by_alias=info.by_alias)
