"""Docstrings of everything public: they are there, and where tensors go in or out they give the shapes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("model", "diffusion", "training", "evaluation", "data_manager", "experiment")
SIZE = r"(?:\.\.\.|(?:\d+ |[A-Z] )?\*?\w+'?(?: (?:or|[-+*/]) \w+'?)*)"
SHAPE = re.compile(
    rf"(?<!\w)\[(?!\d+, \d+\]){SIZE}(?:, {SIZE})*\](?!\()"  # [B, N], [..., dim], [3]; no interval, index, type or link
    r"|\bscalars?\b|\bshapes? of\b|\b(?:any|one|same|its|their|given|\w+'s) shape\b"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Known = ast.ClassDef | Function


class Module(NamedTuple):
    """A module's tree, its classes by name, and where its other names are from: (module, name there)."""

    path: str
    tree: ast.Module
    classes: dict[str, ast.ClassDef]
    imported: dict[str, tuple[str, str]]


class Found(NamedTuple):
    """A public thing, and for a method its class."""

    module: str
    node: Known
    owner: ast.ClassDef | None

    def __str__(self) -> str:
        name = f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name
        return f"{self.module.replace('.', '/')}.py:{self.node.lineno} {name}"


def read(text: str, path: str) -> Module:
    tree = ast.parse(text)
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return Module(path, tree, classes, imported)


def project() -> dict[str, Module]:
    modules = {}
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = read(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
    return modules


def public(node: ast.Module | ast.ClassDef, module: str, owner: ast.ClassDef | None = None) -> Iterator[Found]:
    """Public classes, functions and methods; what is inside a private class or a function is not."""
    for child in node.body:
        if isinstance(child, Known) and not child.name.startswith("_"):
            yield Found(module, child, owner)
            if isinstance(child, ast.ClassDef):
                yield from public(child, module, child)


def find_class(modules: dict[str, Module], module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """A class by the name that it has in a module; None for one from outside the project."""
    if module not in modules:
        return None
    if name in modules[module].classes:
        return module, modules[module].classes[name]
    source = modules[module].imported.get(name)
    return None if source is None else find_class(modules, *source)


def overridden(modules: dict[str, Module], module: str, owner: ast.ClassDef, name: str) -> Iterator[Function]:
    """Methods of this name in the project's classes that `owner` is derived from."""
    for base in owner.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        found = find_class(modules, module, plain.id) if isinstance(plain, ast.Name) else None
        if found is not None:
            yield from (node for node in found[1].body if isinstance(node, Function) and node.name == name)
            yield from overridden(modules, *found, name)


def takes_tensors(node: Known) -> bool:
    if isinstance(node, ast.ClassDef):
        return False
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    annotations = [node.returns, *(argument.annotation for argument in arguments if argument is not None)]
    return any(re.search(r"\bTensor\b", ast.unparse(each)) for each in annotations if each is not None)


def without_shapes(modules: dict[str, Module]) -> list[str]:
    missing = []
    for name, module in modules.items():
        for found in public(module.tree, name):
            if not takes_tensors(found.node):
                continue
            above = overridden(modules, name, found.owner, found.node.name) if found.owner is not None else ()
            if not any(SHAPE.search(ast.get_docstring(node) or "") for node in (found.node, *above)):
                missing.append(str(found))
    return missing


def test_every_public_module_class_and_function_has_a_docstring():
    modules = project()
    assert len(modules) > 100
    bare = [module.path for module in modules.values() if not ast.get_docstring(module.tree)]
    for name, module in modules.items():
        bare += [str(found) for found in public(module.tree, name) if not ast.get_docstring(found.node)]
    assert bare == []


def test_where_tensors_go_in_or_out_the_docstring_gives_a_shape():
    modules = project()
    assert sum(takes_tensors(each.node) for name in modules for each in public(modules[name].tree, name)) > 300
    assert without_shapes(modules) == []


def test_a_missing_shape_is_found_and_one_of_a_base_class_is_taken():
    base = '''class Base:
    def told(self, x: Tensor) -> None:
        """x [B, N]."""

    def untold(self, x: Tensor) -> None:
        """x."""'''
    derived = '''from room.base import Base as Above

class Derived(Above):
    def told(self, x: "Tensor") -> None:
        """As it is."""

    def untold(self, x: Tensor | None) -> None:
        """As it is."""

def lone() -> tuple[Tensor, int]:
    """In [0, 1]."""

def _private(x: Tensor) -> None:
    pass'''
    modules = {"room.base": read(base, "room/base.py"), "room.derived": read(derived, "room/derived.py")}
    assert without_shapes(modules) == [
        "room/base.py:5 Base.untold",
        "room/derived.py:7 Derived.untold",
        "room/derived.py:10 lone",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "latents x [B, latent]",
        "float64 of any shape",
        "told [B, 1 or L, width]",
        "state int64 [3]",
        "betas [T + 1]",
        "a float scalar",
        "of the shape of x",
        "rows int64 [B']",
        "of shape [rows, *shape]",
    ],
)
def test_these_give_a_shape(text):
    assert SHAPE.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "a time in [0, 1]",
        "uniforms in [0, 1)",
        "dict[str, Tensor]",
        "x[rows, tokens]",
        "a [link](docs/x.md)",
        "sum of Q [s_y - a_y log s_y]",
        "raises ShapeError",
        "where names or shapes differ",
    ],
)
def test_these_give_none(text):
    assert not SHAPE.search(text)
