"""Extract the imports between the packages of the project with `ast`.

A package has two parts: the modules imported to check a config, without torch, and the rest. Nodes are (package, part).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("parse_args", "train", "generate", "evaluate")
PACKAGES = ("yaml_config", "model", "diffusion", "data_manager", "training", "evaluation", "experiment", "pages")
CHECKER = "model_factory.experiment.config"
"""Module whose import is sufficient to check a config."""
HEAVY = ("torch", "transformers", "datasets", "lhotse")

Node = tuple[str, str]
Pair = tuple[Node, Node]


@dataclass(frozen=True)
class Import:
    """Import of a project or external module, eager at module level, or lazy inside a function."""

    target: str
    is_eager: bool


class Imports:
    """All imports of a source tree."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = [root / f"{name}.py" for name in COMMANDS]
        paths += [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
        names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in paths}
        trees = {name.removesuffix(".__init__"): _tree(path) for path, name in names.items()}
        self.of = {name: list(_imports(tree, set(trees))) for name, tree in trees.items()}

    @cached_property
    def checking(self) -> set[str]:
        """Collect the modules that are imported to check a config."""
        found: set[str] = set()
        left = [CHECKER]
        while left:
            name = left.pop()
            if name in self.of and name not in found:
                found.add(name)
                left += [one.target for one in self.of[name] if one.is_eager]
                left.append(name.rpartition(".")[0])  # the parent packages are imported first
        return found

    def node(self, module: str) -> Node:
        """Return the node (package, part) of a module."""
        package = module.partition(".")[0]
        if package in COMMANDS:
            return "commands", ""
        if package in ("yaml_config", "diffusion", "evaluation", "pages"):
            return package, ""
        return package, "checking" if module in self.checking else "rest"

    def pairs(self, eager: bool) -> set[Pair]:
        """Return pairs (importer, imported) of different nodes: the eager ones, or those that are only lazy."""
        found: dict[bool, set[Pair]] = {True: set(), False: set()}
        for name, imports in self.of.items():
            for one in imports:
                if one.target in self.of and self.node(name) != self.node(one.target):
                    found[one.is_eager].add((self.node(name), self.node(one.target)))
        return found[True] if eager else found[False] - found[True]


def transitive_reduction(pairs: set[Pair]) -> set[Pair]:
    """Remove the pairs implied by others: (a, c) if there are (a, b) and (b, c)."""
    return {pair for pair in pairs if not _has_path(pairs - {pair}, *pair)}


def has_cycle(pairs: set[Pair]) -> bool:
    """Return True if a node imports itself through others."""
    return any(_has_path(pairs, imported, importer) for importer, imported in pairs)


def _has_path(pairs: set[Pair], start: Node, end: Node) -> bool:
    left, seen = [start], {start}
    while left:
        here = left.pop()
        for imported in {b for a, b in pairs if a == here} - seen:
            if imported == end:
                return True
            seen.add(imported)
            left.append(imported)
    return False


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, ours: set[str]) -> Iterator[Import]:
    """Yield the imports of a file, except those under TYPE_CHECKING."""
    stack: list[tuple[ast.AST, bool]] = [(tree, True)]
    while stack:
        node, is_eager = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, is_eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (Import(name if name in ours else node.module, is_eager) for name in whole)
        inside = is_eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack += [(child, inside) for child in ast.iter_child_nodes(node)]
