"""Docstrings: everything public has one, and functions with tensors give shapes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "model_factory", "data_manager")
SIZE = r"(?:\.\.\.|(?:\d+ |[A-Z] )?\*?\w+'?(?: (?:or|[-+*/]) \w+'?)*)"
SHAPE = re.compile(
    rf"(?<!\w)\[(?!\d+, \d+\]){SIZE}(?:, {SIZE})*\](?!\()"  # matches [B, N], [..., dim], [3]; not intervals, indices, types or links
    r"|\bscalars?\b|\bshapes? of\b|\b(?:any|one|same|its|their|given|\w+'s) shape\b"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Known = ast.ClassDef | Function


class Module(NamedTuple):
    """Module with its tree, its classes by name, and its imported names as (module, name there)."""

    path: str
    tree: ast.Module
    classes: dict[str, ast.ClassDef]
    imported: dict[str, tuple[str, str]]


class Found(NamedTuple):
    """Public class, function or method, with the class of a method."""

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
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = read(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
    return modules


def public(node: ast.Module | ast.ClassDef, module: str, owner: ast.ClassDef | None = None) -> Iterator[Found]:
    """Yield public classes, functions and methods, except those inside private classes or functions."""
    for child in node.body:
        if isinstance(child, Known) and not child.name.startswith("_"):
            yield Found(module, child, owner)
            if isinstance(child, ast.ClassDef):
                yield from public(child, module, child)


def find_class(modules: dict[str, Module], module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Find a class by its name in a module; return None for one from outside the project."""
    if module not in modules:
        return None
    if name in modules[module].classes:
        return module, modules[module].classes[name]
    source = modules[module].imported.get(name)
    return None if source is None else find_class(modules, *source)


def overridden(modules: dict[str, Module], module: str, owner: ast.ClassDef, name: str) -> Iterator[Function]:
    """Yield the methods of this name in the project's base classes of `owner`."""
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


def test_docstrings_exist_for_everything_public():
    modules = project()
    assert len(modules) > 100
    bare = [module.path for module in modules.values() if not ast.get_docstring(module.tree)]
    for name, module in modules.items():
        bare += [str(found) for found in public(module.tree, name) if not ast.get_docstring(found.node)]
    assert bare == []


def test_docstrings_of_tensor_functions_have_shapes():
    modules = project()
    assert sum(takes_tensors(each.node) for name in modules for each in public(modules[name].tree, name)) > 300
    assert without_shapes(modules) == []


def test_docstring_shape_check_uses_base_classes():
    base = '''class Base:
    def with_shape(self, x: Tensor) -> None:
        """x [B, N]."""

    def without_shape(self, x: Tensor) -> None:
        """x."""'''
    derived = '''from package.base import Base as Above

class Derived(Above):
    def with_shape(self, x: "Tensor") -> None:
        """Forward x."""

    def without_shape(self, x: Tensor | None) -> None:
        """Forward x."""

def lone() -> tuple[Tensor, int]:
    """In [0, 1]."""

def _private(x: Tensor) -> None:
    pass'''
    modules = {"package.base": read(base, "package/base.py"), "package.derived": read(derived, "package/derived.py")}
    assert without_shapes(modules) == [
        "package/base.py:5 Base.without_shape",
        "package/derived.py:7 Derived.without_shape",
        "package/derived.py:10 lone",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "latents x [B, latent]",
        "float64 of any shape",
        "cond_emb [B, 1 or L, width]",
        "state int64 [3]",
        "betas [T + 1]",
        "a float scalar",
        "of the shape of x",
        "rows int64 [B']",
        "of shape [rows, *shape]",
    ],
)
def test_docstring_shape_is_recognised(text):
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
def test_docstring_without_shape_is_recognised(text):
    assert not SHAPE.search(text)
