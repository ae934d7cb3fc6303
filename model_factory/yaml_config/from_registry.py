"""Fields that name a registry entry: `process: {type: absorbing}`, `pooling: mean`, `{type: mine, width: 3}`."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import (
    CoreSchema,
    InitErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    core_schema,
)

from model_factory.yaml_config.messages import choice_error
from model_factory.yaml_config.registry import PLUGIN_HINT, Registry, RegistryUnion, UnknownNameError, closest
from model_factory.yaml_config.strict_model import StrictModel

Section = TypeVar("Section", bound=StrictModel)
NameOrOptions = str | StrictModel
"""Value of a field that takes plain names: the name of an entry, or an instance of its config type."""
Names = Literal["unchecked", "kept", "expanded"]
_NAME_OR_MAPPING = "Input should be a name, or a mapping of a type and its settings"


def name_of(choice: NameOrOptions) -> str:
    """Return the registered name that a value of such a field refers to."""
    return choice if isinstance(choice, str) else str(getattr(choice, "type", None))


def section_type(name: str, config: type[BaseModel], base: type[Section]) -> type[Section]:
    """Return `config` as a subclass of `base`, and so as strict, with a field `type` whose value is `name`.

    A subclass of `base` that declares `type` is returned unchanged.
    """
    if issubclass(config, base) and "type" in config.model_fields:
        return config
    bases = (config,) if issubclass(config, base) else (config, base)  # settings of the last base win
    module, text = config.__module__, config.__doc__
    strict: type[Section] = type(config.__name__, bases, {"__module__": module, "__doc__": text})
    tag: Any = Literal[name]
    return create_model(config.__name__, __base__=strict, __module__=module, __doc__=text, type=(tag, name))


@dataclass(frozen=True)
class FromRegistry:
    """Annotation of such a field: `Annotated[StrictModel, FromRegistry(PROCESSES)]`.

    A mapping is validated by the `config_type` of the entry that its `key` names; an instance of that type is kept.

    Fields:
        default: name of a mapping that has no `key`; by default such a mapping is an error.
        names: None if a plain name is an error. A name is "kept" as it is, or "expanded" to its config with all
            defaults; "unchecked" leaves unknown names to a check between sections.
        or_none: True if the field may be None.
        keys_optional: True if the `config_type` of an entry may be None: it has no keys and is a plain name only.
    """

    registry: Registry[Any] | RegistryUnion
    key: str = "type"
    default: str | None = None
    names: Names | None = None
    or_none: bool = False
    keys_optional: bool = False

    def config_type(self, name: object) -> type[BaseModel] | None:
        """Return the type of the mapping whose tag is `name`, None for an unknown tag or an entry without keys."""
        found: type[BaseModel] | None = self.registry.get(str(name)).config_type if self._is_known(name) else None
        return found

    def validate(self, value: Any, info: ValidationInfo) -> Any:
        """Return the name, the object that a mapping describes, or None; raise pydantic's errors at their locations."""
        if value is None and self.or_none:
            return value
        if isinstance(value, BaseModel):
            config_type = self.config_type(getattr(value, self.key, None))
            if config_type is None or not isinstance(value, config_type):
                raise self._unknown()
            return value
        if isinstance(value, dict):
            return self._validate_mapping(value, info)
        if isinstance(value, str) and value and self.names is not None:
            return value if self.names == "unchecked" else self._validate_name(value, info)
        raise self._name_alone(value) if isinstance(value, str) and value else self._wrong_kind()

    def _validate_name(self, name: str, info: ValidationInfo) -> NameOrOptions:
        if not self._is_known(name):
            raise self._unknown()
        config_type = self.config_type(name)
        if config_type is None:
            return name
        if _required_keys(config_type) and self.names == "expanded":
            words = {"name": name, "example": self._example(name, config_type)}
            raise PydanticCustomError("needs_keys", "{name} has required keys; write {example}", words)
        options: StrictModel = self._validate_mapping({self.key: name}, info)
        return options if self.names == "expanded" else name

    def _validate_mapping(self, value: dict[str, Any], info: ValidationInfo) -> Any:
        name = value.get(self.key, self.default)
        if self.key not in value and name is None:
            near = closest(self.key, list(map(str, value)))
            if near is None and self.names == "expanded":
                raise self._unknown()
            kind, loc = ("extra_forbidden", near) if near else ("missing", self.key)
            raise ValidationError.from_exception_data("tag", [{"type": kind, "loc": (loc,), "input": value}])
        if not self._is_known(name):
            wrong = InitErrorDetails(type=self._unknown(), loc=(self.key,), input=name)
            raise ValidationError.from_exception_data("tag", [wrong])
        config_type = self.config_type(name)
        if config_type is None:
            raise PydanticCustomError(
                "no_keys",
                "Input should be the plain name {name}: {kind} {name} has no keys",
                {"name": name, "kind": self.registry.kind, "suggestion": name},
            )
        return config_type.model_validate(value, context=info.context, by_alias=True, by_name=not info.context)

    def _is_known(self, name: object) -> bool:
        """Return True if an entry has this name; the module of an installed entry point may fail to register it."""
        try:
            return isinstance(name, str) and self.registry.get(name) is not None
        except UnknownNameError:
            return False

    def _unknown(self) -> PydanticCustomError:
        return choice_error(self.registry.names(), PLUGIN_HINT)

    def _example(self, name: str, config_type: type[BaseModel] | None) -> str:
        """Return the mapping of an entry, with its required keys."""
        keys = ["..."] if config_type is None else [f"{key}: ..." for key in _required_keys(config_type)]
        return f"{{{', '.join([f'{self.key}: {name}', *keys])}}}"

    def _name_alone(self, name: str) -> PydanticCustomError:
        """Return the error of a plain name where only a mapping is valid; it shows the mapping to write."""
        known = self.registry.names()
        meant = name if self._is_known(name) else closest(name, known)
        given = repr(name) if len(name) <= 60 else f"{name[:57]!r}..."
        words = {"given": given, "example": self._example(meant or name, self.config_type(meant) if meant else None)}
        if meant is None:
            words |= {"kind": self.registry.kind, "known": ", ".join(known), "hint": PLUGIN_HINT}
            message = "must be a mapping, {example}; got {given}, an unknown {kind}; known: {known}; {hint}"
        elif meant != name:
            message = "must be a mapping; got {given}; did you mean {example}?"
        else:
            message = "must be a mapping; got {given}; write {example}"
            words |= {} if "..." in words["example"] else {"suggestion": words["example"]}
        return PydanticCustomError("name_alone", message, words)

    def _wrong_kind(self) -> PydanticCustomError | PydanticKnownError:
        """Return the error of a value that is neither a mapping nor a name that the field takes."""
        if self.names is None:
            return PydanticKnownError("dict_type")
        return self._unknown() if self.keys_optional else PydanticCustomError("name_or_mapping", _NAME_OR_MAPPING)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        plain: list[str] = []
        mappings: dict[type[BaseModel], list[str]] = {}
        for name in self.registry.names():
            config_type = self.registry.get(name).config_type
            if self.names != "expanded" or config_type is None or not _required_keys(config_type):
                plain.append(name)
            has_keys = config_type is not None and bool(set(config_type.model_fields) - {self.key})
            if has_keys or self.names in (None, "unchecked"):
                mappings.setdefault(config_type, []).append(name)
        cases: list[dict[str, Any]] = []
        if self.names is not None:
            checked = {"type": "string", "enum": plain}
            cases.append({"type": "string", "minLength": 1} if self.names == "unchecked" else checked)
        if self.or_none:
            cases.append({"type": "null"})
        for config_type, tags in mappings.items():
            tag = {"const": tags[0]} if len(tags) == 1 else {"enum": tags}
            case = {"allOf": [handler(config_type.__pydantic_core_schema__)], "properties": {self.key: tag}}
            cases.append(case if self.default in tags else {**case, "required": [self.key]})
        return cases[0] if len(cases) == 1 and self.names is not None else {"anyOf": cases}


def _required_keys(config_type: type[BaseModel]) -> list[str]:
    """Return the required keys of a config type, other than its tag."""
    fields = config_type.model_fields.items()
    return [field.alias or name for name, field in fields if field.is_required() and name != "type"]


def _dump(value: BaseModel | str | None, info: Any) -> dict[str, Any] | str | None:
    if not isinstance(value, BaseModel):
        return value
    return value.model_dump(mode=info.mode, by_alias=info.by_alias)
