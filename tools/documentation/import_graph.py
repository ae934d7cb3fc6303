"""Import graph of the installed code, read from the source: edges, circles, floors, and lazy imports that save nothing.

An edge is an import statement at any depth, except under `TYPE_CHECKING`. Not edges are the implicit import of a parent
package and module names given as strings to `import_module` (registries, the facade).
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("parse_args", "model", "data_manager", "model_factory")
FLOORS = {
    "model_factory.yaml_config": 0,
    "model_factory.diffusion": 1,
    "model": 2,
    "data_manager": 2,
    "model_factory.experiment": 3,
    "model_factory.training": 4,
    "model_factory.evaluation": 5,
    "model_factory.interop": 6,
    "model_factory.sweep": 6,
    "model_factory.pages": 7,
    "model_factory.cli": 8,
    "parse_args": 9,
}
"""Floor of each package: a module imports its own package and lower floors only."""
LIGHT = {"pydantic", "pydantic_core", "yaml", "typing_extensions"}
"""Third-party packages that the check of a file imports anyway; any other one is worth an import inside a function."""
CHECKER = "model_factory.experiment.config"
"""Module whose import is sufficient to check a file."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Edge:
    """One imported module: its name, the line, and False for an import inside a function."""

    target: str
    line: int
    is_eager: bool


class ImportGraph:
    """Modules of a checkout and the imports between them.

    `edges` has every import of each module, of ours and of others; `paths` the file of each module of ours.
    """

    def __init__(self, root: Path = ROOT, packages: tuple[str, ...] = INSTALLED) -> None:
        self.root = root
        files = [path for name in packages for path in _files(root, name)]
        self.paths = {_module(path.relative_to(root)): path for path in files}
        self.edges = {name: list(self._edges(path)) for name, path in self.paths.items()}

    def resolve(self, name: str) -> str | None:
        """Return the module of ours that a dotted name is in, or None."""
        while name and name not in self.paths:
            name = name.rpartition(".")[0]
        return name or None

    def own(self, module: str) -> set[str]:
        """Return the modules of ours that a module imports."""
        targets = {self.resolve(edge.target) for edge in self.edges[module]}
        return {target for target in targets if target is not None} - {module}

    def circles(self) -> list[list[str]]:
        """Return every group of modules that import each other (strongly connected components of two or more)."""
        return [sorted(group) for group in _components({name: self.own(name) for name in self.paths}) if len(group) > 1]

    def upward(self) -> list[str]:
        """Return "a imports b" for each import from a lower floor to a higher one, or between packages of one floor."""
        found = []
        for name in self.paths:
            for target in sorted(self.own(name)):
                (package, floor), (other, height) = floor_of(name), floor_of(target)
                if package != other and height >= floor:
                    found.append(f"{name} imports {target}")
        return found

    def package_pairs(self) -> set[Pair]:
        """Return (importer, imported) of the packages of `FLOORS`, without pairs that follow from others."""
        names = [(floor_of(name)[0], floor_of(target)[0]) for name in self.paths for target in self.own(name)]
        pairs = {pair for pair in names if pair[0] != pair[1] and set(pair) <= set(FLOORS)}
        return {pair for pair in pairs if not _has_path(pairs - {pair}, *pair)}

    def useless_lazy_imports(self) -> list[str]:
        """Return "path:line target" for each import of ours inside a function that saves no heavy package."""
        heavy = {name: self.heavy(name) for name in self.paths}
        found = []
        for name, edges in self.edges.items():
            for edge in edges:
                target = self.resolve(edge.target)
                if not edge.is_eager and target is not None and not heavy[target] - heavy[name]:
                    found.append(f"{self.paths[name].relative_to(self.root)}:{edge.line} {target}")
        return found

    def importers(self) -> dict[str, set[str]]:
        """Return for each module the modules that import it."""
        found: dict[str, set[str]] = {name: set() for name in self.paths}
        for name in self.paths:
            for target in self.own(name):
                found[target].add(name)
        return found

    def closure(self, module: str) -> set[str]:
        """Return the modules of ours that are imported when `module` is, itself and parent packages included."""
        seen: set[str] = set()
        left = [module]
        while left:
            name = left.pop()
            if name in seen or name not in self.paths:
                continue
            seen.add(name)
            left += [found for edge in self.edges[name] if edge.is_eager and (found := self.resolve(edge.target))]
            left.append(name.rpartition(".")[0])
        return seen

    def heavy(self, module: str) -> set[str]:
        """Return the third-party packages, except `LIGHT` ones, that are imported when `module` is."""
        edges = [edge for name in self.closure(module) for edge in self.edges[name] if edge.is_eager]
        tops = {edge.target.partition(".")[0] for edge in edges if self.resolve(edge.target) is None}
        return tops - LIGHT - set(sys.stdlib_module_names)

    def _edges(self, path: Path) -> Iterator[Edge]:
        stack: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), True)]
        while stack:
            node, is_eager = stack.pop()
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                stack += [(child, is_eager) for child in node.orelse]
                continue
            if isinstance(node, ast.Import):
                yield from (Edge(alias.name, node.lineno, is_eager) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield Edge(whole if whole in self.paths else str(node.module), node.lineno, is_eager)
            inside = is_eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            stack += [(child, inside) for child in ast.iter_child_nodes(node)]


def floor_of(module: str) -> tuple[str, int]:
    """Return the package of `FLOORS` that a module is in, and its floor; the facade itself is below everything."""
    for package, floor in FLOORS.items():
        if module == package or module.startswith(f"{package}."):
            return package, floor
    return module, 9 if module == "model_factory.__main__" else -1


def _has_path(pairs: set[Pair], start: str, end: str) -> bool:
    left, seen = [start], {start}
    while left:
        here = left.pop()
        for imported in {b for a, b in pairs if a == here} - seen:
            if imported == end:
                return True
            seen.add(imported)
            left.append(imported)
    return False


def _files(root: Path, name: str) -> list[Path]:
    return sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / f"{name}.py"]


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan's strongly connected components (SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group: set[str] = set()
            while name not in group:
                group.add(stack.pop())
            found.append(group)

    for name in graph:
        if name not in index:
            visit(name)
    return found
