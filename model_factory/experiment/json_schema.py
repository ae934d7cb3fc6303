"""JSON Schema of the whole file, for completion and checks in editors."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

import data_manager.sources  # noqa: F401  (registers the built-in ones)
from data_manager.dataset_types import GlobalConfig
from data_manager.registry import SOURCES
from data_manager.speech.recipes import recipe_names
from data_manager.tokenizers.registry import TOKENIZERS
from model.core_registry import CORES
from model.denoisers.registry import BACKBONES
from model.feature_registry import FEATURE_MAPS
from model.latent.registry import LATENT_PARTS
from model.parse_model_args import HEADER_KEYS, ModelHeader
from model.registry import MODELS
from model.types import PerformerParams
from model_factory.diffusion.registry import OBJECTIVES, PROCESSES, SAMPLERS, SCHEDULES
from model_factory.experiment.task_registry import TASKS
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.schema_version import KEY, SCHEMA_VERSION
from model_factory.yaml_config.strict_model import StrictModel

# Read the docstrings under fields from the source, as descriptions of a JSON Schema.


NESTING = 3
"""Depth to which configuration types are nested."""


def describe_fields() -> None:
    """Set the docstring of every field of every configuration type as its description."""
    types = list(dict.fromkeys(_subclasses(StrictModel)))
    for model in types:
        for name, field in model.model_fields.items():
            docs = (field_docstrings(base).get(name) for base in model.__mro__ if issubclass(base, BaseModel))
            field.description = field.description or next(filter(None, docs), None)
    for _ in range(NESTING):  # a type copies the schemas of the types inside it
        for model in types:
            model.model_rebuild(force=True)


@cache
def field_docstrings(model: type) -> dict[str, str]:
    """Return the string literals under a class's own fields by name; empty if there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    except (OSError, TypeError, SyntaxError):
        return {}
    [definition] = tree.body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    docs = {}
    for field, after in pairwise(body):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[field.target.id] = inspect.cleandoc(str(after.value.value))  # type: ignore[attr-defined]
    return docs


def _subclasses(model: type[StrictModel]) -> Iterator[type[StrictModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _subclasses(child)


Schema = dict[str, Any]


SCHEMA_FILE = "configs/schema.json"


DEVICE_PATTERN = r"auto|cpu|mps|(cuda|xpu)(:\d{1,4})?"
"""Device names, as `model.types` checks them."""


_ANNOUNCED: tuple[Registry[Any], ...] = (
    MODELS,
    SOURCES,
    TOKENIZERS,
    PROCESSES,
    SCHEDULES,
    OBJECTIVES,
    SAMPLERS,
    BACKBONES,
    CORES,
    FEATURE_MAPS,
    TASKS,
    *LATENT_PARTS,
)
"""Registries whose types are imported on first use."""


def describe_every_type() -> None:
    """Import every type that a file can name, and set the docstrings of its fields as descriptions."""
    for registry in _ANNOUNCED:
        for name in registry:
            registry.get(name)  # imports lazily registered types
    describe_fields()


_PRETRAINED: Schema = {
    "type": "object",
    "description": "A model that is trained further; keys beside `pretrained` replace those of its run.",
    "properties": {
        "pretrained": {
            "type": "string",
            "description": "Folder of a run or of a published model, or its name on the hub; its settings and weights are taken.",
        },
        "revision": {"type": "string", "description": "Commit, branch or tag of a name on the hub."},
    },
    "required": ["pretrained"],
}


def experiment_schema() -> Schema:
    """Return the schema (draft 2020-12) of a file with all registered model types and data sources."""
    describe_every_type()
    definitions: Schema = {}
    models = [_model_variant(name, definitions) for name in MODELS]
    sources = [_source_variant(name, definitions) for name in SOURCES]
    properties = {
        KEY: {
            "description": "Version of the file format, written by the program; later versions than it knows are refused.",
            "const": SCHEMA_VERSION,
        },
        "extends": {
            "description": "Base files that this one overrides, relative to it.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        },
        "model": {"oneOf": [*models, _PRETRAINED]},
        "global_config": _of(GlobalConfig, definitions) | {"minProperties": 1},
        "datasets": {"type": "array", "minItems": 1, "items": {"anyOf": sources}},
        "training": _of(TrainingConfig, definitions) | {"minProperties": 1},
        "generation": _of(GenerationConfig, definitions) | {"minProperties": 1},
    }
    _name_devices([properties, definitions])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Experiment",
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
        "properties": properties,
        "$defs": dict(sorted(definitions.items())),
    }


def _of(model: type[StrictModel], definitions: Schema) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    definitions.update(schema.pop("$defs", {}))
    return schema


def _model_variant(name: str, definitions: Schema) -> Schema:
    config_type = MODELS.get(name).config_type
    schema = _of(config_type, definitions)
    header = _of(ModelHeader, definitions)["properties"]
    properties: Schema = {"model_type": {"const": name}, "name": header["name"]}
    required = set(schema.get("required", []))
    parts = getattr(config_type, "parts", ())
    if parts:
        properties["global_config"] = {"$ref": "#/$defs/PerformerParams", "minProperties": 1}
        # a part may leave out what global_config gives, so its type requires nothing
        needed = [name for name, field in PerformerParams.model_fields.items() if field.is_required()]
        definitions["PerformerParams"].pop("required", None)
        complete = {part: {"required": needed} for part in parts}
        schema["anyOf"] = [{"required": ["global_config"]}, {"properties": complete}]
    assert set(properties) <= set(HEADER_KEYS)
    schema["properties"] = {**properties, **schema["properties"]}
    schema["required"] = ["model_type", *sorted(required)]
    return schema


def _source_variant(name: str, definitions: Schema) -> Schema:
    schema = _of(SOURCES.get(name).config_type, definitions)
    schema["properties"]["source"] = {"const": name}
    schema["properties"].pop("global_config", None)
    if name == "lhotse":
        schema["properties"]["name"] = {**schema["properties"]["name"], "enum": sorted(recipe_names())}
    if name != "lhotse" and "source" not in schema.get("required", []):
        schema["required"] = [*schema.get("required", []), "source"]
    return schema


def _name_devices(node: Any) -> None:
    """Add the pattern of device names to every property `device`."""
    if isinstance(node, dict):
        device = node.get("properties", {}).get("device") if isinstance(node.get("properties"), dict) else None
        if device and device.get("type") == "string":
            device["pattern"] = f"^({DEVICE_PATTERN})$"
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _name_devices(child)
