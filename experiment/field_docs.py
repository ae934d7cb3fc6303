"""Docstrings under fields as descriptions of a JSON Schema, read from the source when a schema is asked for.

That of a number ends with its unit: `Optimiser steps. [steps]`; a plain number has [1].
pydantic's own `use_attribute_docstrings` reads them at each import, a quarter of the time that checking a file takes.
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
"""How deep configuration types stand in each other."""


def describe_fields() -> None:
    """Give every field of every configuration type its docstring as description."""
    types = list(dict.fromkeys(_subclasses(StrictModel)))
    for model in types:
        for name, field in model.model_fields.items():
            docs = (field_docstrings(base).get(name) for base in model.__mro__ if issubclass(base, BaseModel))
            field.description = field.description or next(filter(None, docs), None)
    for _ in range(NESTING):  # a type takes in those inside it as they stand
        for model in types:
            model.model_rebuild(force=True)


@cache
def field_docstrings(model: type) -> dict[str, str]:
    """Names of a class's own fields to the string literals under them; empty where there is no source."""
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
