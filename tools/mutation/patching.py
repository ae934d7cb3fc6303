"""Insert a fault into the running process by replacing the code objects of live functions.

Nothing is re-imported, which makes a mutant cheap. Functions keep their identity, so decorators, registries, custom
operators and names imported elsewhere all run the fault.
"""

import ast
import gc
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tools.mutation.settings import ROOT

Functions = dict[tuple[str, str, int], list[FunctionType]]
"""Live functions by file, qualified name and first line."""


class NotFoundError(LookupError):
    """Error: no live function or constant matches the fault."""


def live_functions(paths: list[str]) -> Functions:
    """Collect all live functions of these files, including decorated and wrapped ones."""
    wanted, found = {str(ROOT / path): path for path in paths}, Functions()
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename in wanted:
            code = one.__code__
            key = wanted[code.co_filename], code.co_qualname, code.co_firstlineno
            found.setdefault(key, []).append(one)
    return found


def apply_mutant(path: str, scope: str, source: str, line: int, functions: Functions) -> None:
    """Make the process run `source` for the function `scope` (or the statement at `line`) of a file.

    Raise NotFoundError if no such function is live; exceptions of the statement propagate.
    """
    module = sys.modules[path.removesuffix(".py").replace("/", ".")]
    tree = ast.parse(source)
    definition = _definition(tree, scope, line)
    if definition is None:
        _set_constant(module, tree, scope, line)
        return
    done = 0
    for code in _codes(compile(source, str(ROOT / path), "exec", dont_inherit=True)):
        if code.co_qualname == scope or code.co_qualname.startswith(scope + ".<locals>."):
            for function in functions.get((path, code.co_qualname, code.co_firstlineno), []):
                function.__code__ = code
                done += 1
                if code.co_qualname == scope:
                    _set_defaults(function, definition, module)
    if not done:
        raise NotFoundError(f"{path}: no live function {scope}")


def _codes(code: CodeType) -> list[CodeType]:
    inner = [one for const in code.co_consts if isinstance(const, CodeType) for one in _codes(const)]
    return [code, *inner]


def _definition(tree: ast.AST, scope: str, line: int) -> ast.FunctionDef | None:
    """Find the function `scope` that contains a line; return None for a class or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == scope.rpartition(".")[2]:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first <= line <= (node.end_lineno or line):
                return node
    return None


def _set_defaults(function: FunctionType, definition: ast.FunctionDef, module: ModuleType) -> None:
    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "default", "eval"), module.__dict__)

    if definition.args.defaults:
        function.__defaults__ = tuple(value(one) for one in definition.args.defaults)
    pairs = zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True)
    keywords = {argument.arg: value(one) for argument, one in pairs if one is not None}
    if keywords:
        function.__kwdefaults__ = keywords


def _set_constant(module: ModuleType, tree: ast.AST, scope: str, line: int) -> None:
    """Set a constant of a module or class, also in modules that imported it by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno <= line <= (node.end_lineno or line):
            names: dict[str, Any] = {}
            statement = ast.Module([node], [])
            exec(compile(statement, "constant", "exec"), module.__dict__, names)
            names.pop("__annotations__", None)
            for name, value in names.items():
                _replace(module, scope, name, value)
            return
    raise NotFoundError(f"{module.__name__}: no constant at line {line}")


def _replace(module: ModuleType, scope: str, name: str, value: Any) -> None:
    if scope:
        owner = getattr(module, scope)
        setattr(owner, name, value)
        for maker in (owner.__init__, owner.__new__):  # defaults of dataclasses and named tuples
            code, defaults = getattr(maker, "__code__", None), getattr(maker, "__defaults__", None)
            if code is not None and defaults:
                arguments = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
                maker.__defaults__ = tuple(
                    value if one == name else old for one, old in zip(arguments, defaults, strict=True)
                )
        return
    old = module.__dict__[name]
    for other in list(sys.modules.values()):
        if getattr(other, "__dict__", {}).get(name, _NOTHING) is old:
            setattr(other, name, value)


_NOTHING = object()
