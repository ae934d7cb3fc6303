"""Generate the mutants of a file with mutmut's operators (its library, not its runner) at every node.

Unlike mutmut's runner this also mutates decorated functions, and constants of modules and classes; like it, it skips
annotations, decorators and docstrings.
"""

import hashlib
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from tools.mutation.exclusions import reason_to_exclude
from tools.mutation.settings import ROOT


@dataclass(frozen=True)
class Mutant:
    """Mutated file: `source` is the whole text, `before` and `after` the changed part.

    `scope` is the qualified name of the outermost enclosing function or method, or "" without one; `line` is the line
    of the change, `lines` the first and last line of its statement, and `first_line` the start of the scope.
    """

    path: str
    scope: str
    first_line: int
    last_line: int
    line: int
    lines: tuple[int, int]
    before: str
    after: str
    source: str
    excluded: str | None
    key: str


class _MutationVisitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ByteSpanPositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, list[cst.CSTNode]]] = []
        self._above: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.ImportFrom | cst.Import):
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("len", "isinstance"):
            return False  # like mutmut: without its argument the call only raises
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, mutated, list(self._above)) for mutated in operator(node)]
        self._above.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._above and self._above[-1] is original_node:
            self._above.pop()


def make_mutants(path: str, text: str | None = None) -> list[Mutant]:
    """Generate all mutants of a file (path from the root), ordered by line, including excluded ones."""
    text = (ROOT / path).read_text() if text is None else text
    wrapper = MetadataWrapper(cst.parse_module(text))
    visitor = _MutationVisitor()
    wrapper.visit(visitor)
    positions, spans = wrapper.resolve(PositionProvider), wrapper.resolve(ByteSpanPositionProvider)
    made, seen = [], set()
    for node, mutated, above in visitor.found:
        span, whole = spans[node], text.encode()
        after = wrapper.module.code_for_node(mutated)
        before = whole[span.start : span.start + span.length].decode()
        source = (whole[: span.start] + after.encode() + whole[span.start + span.length :]).decode()
        if source in seen or not _compiles(source):
            continue
        seen.add(source)
        scope, owner = _scope(above)
        statement = next((one for one in reversed(above) if isinstance(one, cst.BaseSmallStatement)), node)
        area = owner if owner is not None else statement
        start, end = positions[area].start.line, positions[area].end.line
        rows = source.splitlines()[start - 1 : end]
        key = hashlib.sha1("\n".join([path, scope, *rows]).encode()).hexdigest()
        lines = positions[statement].start.line, positions[statement].end.line
        excluded = reason_to_exclude(node, mutated, above, wrapper.module)
        line = positions[node].start.line
        made.append(Mutant(path, scope, start, end, line, lines, before, after.strip(), source, excluded, key))
    return sorted(made, key=lambda mutant: mutant.line)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _scope(above: list[cst.CSTNode]) -> tuple[str, cst.FunctionDef | None]:
    """Return qualified name and node of the outermost enclosing function; without one, the class name and None."""
    names = []
    for node in above:
        if isinstance(node, cst.ClassDef):
            names.append(node.name.value)
        elif isinstance(node, cst.FunctionDef):
            return ".".join([*names, node.name.value]), node
    return ".".join(names), None
