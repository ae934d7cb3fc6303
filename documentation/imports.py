"""Which part of the project imports which, read from the source by `ast`.

A room has two halves: what is imported to check a file, which knows no torch, and the rest. So nodes are (room, half).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("parse_args", "train", "generate", "evaluate")
ROOMS = ("yaml_config", "model", "diffusion", "data_manager", "training", "evaluation", "experiment", "pages")
CHECKER = "experiment.config"
"""The module whose import is all that checking a file takes."""
HEAVY = ("torch", "transformers", "datasets", "lhotse")

Node = tuple[str, str]
Pair = tuple[Node, Node]


@dataclass(frozen=True)
class Import:
    """One import: of a module of ours or another's, at the file's own import or only inside a function."""

    target: str
    is_eager: bool


class Imports:
    """All imports of a checkout."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = [root / f"{name}.py" for name in VERBS]
        paths += [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
        names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in paths}
        trees = {name.removesuffix(".__init__"): _tree(path) for path, name in names.items()}
        self.of = {name: list(_imports(tree, set(trees))) for name, tree in trees.items()}

    @cached_property
    def checking(self) -> set[str]:
        """Modules that are imported to check a file."""
        found: set[str] = set()
        left = [CHECKER]
        while left:
            name = left.pop()
            if name in self.of and name not in found:
                found.add(name)
                left += [one.target for one in self.of[name] if one.is_eager]
                left.append(name.rpartition(".")[0])  # a module's packages are imported before it
        return found

    def node(self, module: str) -> Node:
        """Room and half of a module."""
        room = module.partition(".")[0]
        if room in VERBS:
            return "verbs", ""
        if room in ("yaml_config", "diffusion", "evaluation", "pages"):
            return room, ""
        return room, "checking" if module in self.checking else "rest"

    def pairs(self, eager: bool) -> set[Pair]:
        """(who, whom) of different nodes; of both kinds only the eager one is given."""
        found: dict[bool, set[Pair]] = {True: set(), False: set()}
        for name, imports in self.of.items():
            for one in imports:
                if one.target in self.of and self.node(name) != self.node(one.target):
                    found[one.is_eager].add((self.node(name), self.node(one.target)))
        return found[True] if eager else found[False] - found[True]


def reduced(pairs: set[Pair]) -> set[Pair]:
    """Without those that follow from others: a to c where there are a to b and b to c."""
    return {pair for pair in pairs if not _leads(pairs - {pair}, *pair)}


def has_cycle(pairs: set[Pair]) -> bool:
    """Whether a node imports itself by way of others."""
    return any(_leads(pairs, whom, who) for who, whom in pairs)


def _leads(pairs: set[Pair], start: Node, end: Node) -> bool:
    left, seen = [start], {start}
    while left:
        here = left.pop()
        for whom in {b for a, b in pairs if a == here} - seen:
            if whom == end:
                return True
            seen.add(whom)
            left.append(whom)
    return False


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, ours: set[str]) -> Iterator[Import]:
    """Imports of a file; what is for a type checker alone is none."""
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
