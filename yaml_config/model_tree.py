"""Walking a pydantic type beside a tree: which type a mapping has, which keys it knows, what an object holds where."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from yaml_config.node import Node
from yaml_config.strict_model import Location, StrictModel
from yaml_config.tagged import FromRegistry


def walk(value: Any, path: Location) -> Iterator[tuple[Location, StrictModel]]:
    """Every StrictModel inside `value` with its location in the file."""
    if isinstance(value, StrictModel):
        yield path, value
        for name, field in type(value).model_fields.items():
            yield from walk(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index))


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """Fields of a type by the names that a file uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic type inside an annotation such as `list[X]`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = model_in(part)
        if found is not None:
            return found
    return None


def model_at(model: type[BaseModel], path: Location, node: Node) -> type[BaseModel] | None:
    """The pydantic type of the mapping at `path` inside `model`, or None where it is free-form.

    Where a key of the mapping picks the type (`FromRegistry`), the tree `node` says which.
    """
    here: type[BaseModel] | None = model
    for depth, key in enumerate(path):
        if here is None:
            return None
        field = fields_of(here).get(str(key))
        if field is None:
            if isinstance(key, int) or fields_of(here):
                continue  # an index of a list or a key of a dict of models: the type stays
            return None
        tagged = _from_registry(field)
        if tagged is None:
            here = model_in(field.annotation)
        else:
            tag = node.at((*path[: depth + 1], tagged.key))
            name = tag.value if tag is not None else tagged.default
            here = tagged.config_type(name) if name is not None else None
    return here


def _from_registry(field: Any) -> FromRegistry | None:
    return next((meta for meta in field.metadata if isinstance(meta, FromRegistry)), None)


def tag_of(model: type[BaseModel], path: Location, node: Node) -> FromRegistry | None:
    """How the type of the mapping at `path` is picked, where a key inside it does."""
    parent = model_at(model, path[:-1], node)
    field = fields_of(parent).get(str(path[-1])) if parent else None
    return _from_registry(field) if field else None
