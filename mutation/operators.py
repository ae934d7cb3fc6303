"""The mutants of a file: the operators of mutmut (its library, not its runner) at every place of the source.

Unlike mutmut's runner this also mutates decorated functions, and constants of modules and classes; like it, it leaves
annotations, decorators and docstrings alone.
"""

import hashlib
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from mutation.exclusions import reason_to_exclude
from mutation.settings import ROOT


@dataclass(frozen=True)
class Mutant:
    """One fault: `source` is the whole file with it, `before` and `after` the text that changed.

    `scope` is the outermost function or method it lies in, as a qualified name, or "" outside of any; `line` is where
    the change is, `lines` the first and the last line of its statement, and `first_line` where the scope starts.
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


class _Places(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ByteSpanPositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, list[cst.CSTNode]]] = []
        self._above: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.ImportFrom | cst.Import):
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("len", "isinstance"):
            return False  # as mutmut does: without its argument the call only raises
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, mutated, list(self._above)) for mutated in operator(node)]
        self._above.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._above and self._above[-1] is original_node:
            self._above.pop()


def mutants_of(path: str, text: str | None = None) -> list[Mutant]:
    """All mutants of a file, given by its path from the root, in the order of its lines, excluded ones among them."""
    text = (ROOT / path).read_text() if text is None else text
    wrapper = MetadataWrapper(cst.parse_module(text))
    places = _Places()
    wrapper.visit(places)
    positions, spans = wrapper.resolve(PositionProvider), wrapper.resolve(ByteSpanPositionProvider)
    made, seen = [], set()
    for node, mutated, above in places.found:
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
        place = positions[node].start.line
        made.append(Mutant(path, scope, start, end, place, lines, before, after.strip(), source, excluded, key))
    return sorted(made, key=lambda mutant: mutant.line)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _scope(above: list[cst.CSTNode]) -> tuple[str, cst.FunctionDef | None]:
    """Qualified name and node of the outermost function around a place; of the class alone where there is none."""
    names = []
    for node in above:
        if isinstance(node, cst.ClassDef):
            names.append(node.name.value)
        elif isinstance(node, cst.FunctionDef):
            return ".".join([*names, node.name.value]), node
    return ".".join(names), None
