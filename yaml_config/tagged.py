"""Fields whose type is selected from a registry by a key inside: `process: {type: absorbing}`."""

from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, PydanticKnownError, core_schema

from yaml_config.choice import not_one_of
from yaml_config.registry import PLUGIN_HINT, Registry, UnknownNameError, closest

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
                raise not_one_of(self.registry.names(), PLUGIN_HINT)
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
            wrong = InitErrorDetails(type=not_one_of(self.registry.names(), PLUGIN_HINT), loc=(self.key,), input=tag)
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
