"""Fields that name a registry entry, with optional checked keys: `elu`, or `{type: mine, width: 3}`."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationInfo, create_model
from pydantic_core import CoreSchema, PydanticCustomError

from model_factory.yaml_config.choose import FromRegistry
from model_factory.yaml_config.messages import choice_error
from model_factory.yaml_config.registry import PLUGIN_HINT, UnknownNameError, closest
from model_factory.yaml_config.strict_model import StrictModel

NameOrOptions = str | StrictModel
"""Value of such a field: the name of an entry without a config type, else an instance of that type."""


def name_of(choice: NameOrOptions) -> str:
    """Return the registered name that a value of such a field refers to."""
    return choice if isinstance(choice, str) else str(getattr(choice, "type"))  # noqa: B009  (added by options_type)


def options_type(name: str, config: type[BaseModel] | None) -> type[StrictModel] | None:
    """Return `config` as a strict type with the additional field `type`, which is `name`; None without a config."""
    if config is None:
        return None
    bases = (config, StrictModel)  # the settings of StrictModel come last, and win
    strict = type(config.__name__, bases, {"__module__": config.__module__, "__doc__": config.__doc__})
    return create_model(config.__name__, __base__=strict, type=(Literal[name], name))  # type: ignore[arg-type]


@dataclass(frozen=True)
class NameOrConfig(FromRegistry):
    """Annotation of such a field: `Annotated[NameOrOptions, NameOrConfig(FEATURE_MAPS)]`.

    Entries of the registry have a `config_type`, None for an entry that has no keys. The plain name of an entry with
    keys selects their defaults.
    """

    def validate(self, value: Any, info: ValidationInfo) -> NameOrOptions:
        """Return the name or the config instance; raise pydantic's errors, at the key inside a mapping."""
        if isinstance(value, str):
            return self._validate_name(value, info)
        if isinstance(value, BaseModel):
            config_type = self.config_type(getattr(value, self.key, None))
            if isinstance(value, StrictModel) and config_type is not None and isinstance(value, config_type):
                return value
        elif isinstance(value, dict) and self.key in value:
            name = value[self.key]
            if self._is_registered(name) and self.config_type(name) is None:
                raise PydanticCustomError(
                    "no_keys",
                    "Input should be the plain name {name}, which has no keys",
                    {"name": name, "suggestion": name},
                )
            return super().validate(value, info)  # type: ignore[no-any-return]
        elif isinstance(value, dict) and closest(self.key, list(map(str, value))):
            return super().validate(value, info)  # type: ignore[no-any-return]  # raises: the key `type` is misspelt
        raise choice_error(self.registry, PLUGIN_HINT)

    def _validate_name(self, name: str, info: ValidationInfo) -> NameOrOptions:
        if not self._is_registered(name):
            raise choice_error(self.registry, PLUGIN_HINT)
        config_type = self.config_type(name)
        if config_type is None:
            return name
        required = _required_keys(config_type)
        if required:
            keys = ", ".join(f"{key}: ..." for key in required)
            raise PydanticCustomError(
                "needs_keys",
                "{name} has required keys; write {example}",
                {"name": name, "example": f"{{{self.key}: {name}, {keys}}}"},
            )
        options: StrictModel = super().validate({self.key: name}, info)
        return options

    def _is_registered(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self.registry:
            return False
        try:
            self.registry.get(name)
        except UnknownNameError:  # an installed entry point whose module does not register it
            return False
        return True

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names, variants = [], []
        for name in self.registry:
            config_type = self.registry.get(name).config_type
            if config_type is None or not _required_keys(config_type):
                names.append(name)
            if config_type is not None:
                variant = handler(config_type.__pydantic_core_schema__)
                variants.append({"allOf": [variant], "properties": {self.key: {"const": name}}, "required": [self.key]})
        plain = {"type": "string", "enum": names}
        return {"anyOf": [plain, *variants]} if variants else plain


def _required_keys(config_type: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in config_type.model_fields.items() if field.is_required()]
