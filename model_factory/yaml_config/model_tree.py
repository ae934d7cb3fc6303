"""Walk a pydantic type along a tree: find the type and the known keys of each mapping."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.strict_model import Location, StrictModel


def walk(value: Any, path: Location) -> Iterator[tuple[Location, StrictModel]]:
    """Yield every StrictModel inside `value` with its location in the file."""
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
    """Return the fields of a type by their names in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic type inside an annotation such as `list[X]`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = model_in(part)
        if found is not None:
            return found
    return None


def model_at(model: type[BaseModel], path: Location, node: Node) -> type[BaseModel] | None:
    """Return the pydantic type of the mapping at `path` inside `model`, or None if it is free-form.

    If a key of the mapping selects the type (`FromRegistry`), it is read from the tree `node`.
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
        tagged = registry_of(field)
        if tagged is None:
            here = model_in(field.annotation)
        else:
            in_list = depth + 1 < len(path) and isinstance(path[depth + 1], int)
            tag = node.at((*path[: depth + 1 + in_list], tagged.key))
            name = tag.value if tag is not None else tagged.default
            here = tagged.config_type(name) if name is not None else None
    return here


def registry_of(field: Any) -> FromRegistry | None:
    """Return the annotation of a field that names a registry entry, also inside a list or a union; None without one."""
    return next(
        (mark for mark in (*field.metadata, *_marks_in(field.annotation)) if isinstance(mark, FromRegistry)), None
    )


def _marks_in(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of each `Annotated` inside an annotation, such as the items of a list or a union."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks_in(part)


def tag_of(model: type[BaseModel], path: Location, node: Node) -> FromRegistry | None:
    """Return the `FromRegistry` by which a key selects the type of the mapping at `path`, or None."""
    owner = path[:-1] if isinstance(path[-1], int) else path  # an item of a list: the list's field
    parent = model_at(model, owner[:-1], node)
    field = fields_of(parent).get(str(owner[-1])) if parent and owner else None
    return registry_of(field) if field else None
