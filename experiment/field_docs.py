"""Read the docstrings under fields from the source, as descriptions of a JSON Schema.

The docstring of a number ends with its unit: `Optimiser steps. [steps]`; a plain number has [1].
pydantic's own `use_attribute_docstrings` reads them at each import, which takes a quarter of the time of a check.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from pydantic import BaseModel

from yaml_config.strict_model import StrictModel

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
