"""Read names and parameters of lhotse's recipes from its source: importing lhotse takes a second or two.

A recipe is a function `prepare_NAME` that `lhotse.recipes` exports, with a `download_NAME` if the corpus
can be downloaded. Only the requested recipe's file is parsed (about 5 ms).
"""

import ast
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from yaml_config.registry import UnknownNameError

ROOTS = ("corpus_dir", "data_dir", "tedlium_root")
"""Names that recipes use for the corpus folder parameter."""
OUTPUT = "output_dir"
TARGETS = ("target_dir", "corpus_dir")
"""Names that downloaders use for the target folder parameter."""

_NAMES = {"prepare_single_babel_language": "babel"}


@dataclass(frozen=True)
class RecipeFunction:
    """Signature of a recipe function: ordered parameters, each mapped to True if required, and their annotations."""

    name: str
    parameters: dict[str, bool]
    annotations: dict[str, str] = field(default_factory=dict)

    def required(self) -> list[str]:
        """List the parameters without a default."""
        return [name for name, is_required in self.parameters.items() if is_required]


@dataclass(frozen=True)
class RecipeSignature:
    """Signature of a recipe. `download` is None if lhotse cannot download the corpus; `url` is its source."""

    name: str
    module: str
    prepare: RecipeFunction
    download: RecipeFunction | None
    url: str | None

    @property
    def root(self) -> str | None:
        """Return the parameter of `prepare` for the corpus folder; None if it needs several folders."""
        return next((name for name in ROOTS if name in self.prepare.parameters), None)


def is_lhotse_installed() -> bool:
    """Return True if lhotse is installed; without it no recipe is known."""
    return _recipes_folder() is not None


def recipe_names() -> list[str]:
    """List the names of all recipes, sorted; empty if lhotse is not installed."""
    return sorted(_exported_recipes())


@cache
def recipe_signature(name: str) -> RecipeSignature:
    """Return the signature of the recipe `name`; raise UnknownNameError with the closest name."""
    exported = _exported_recipes()
    folder = _recipes_folder()
    if folder is None or name not in exported:
        raise UnknownNameError("lhotse corpus", name, sorted(exported))
    module, prepare = exported[name]
    tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
    prepare_function = _find_function(tree, prepare)
    assert prepare_function is not None, f"lhotse.recipes exports {prepare}, and {module}.py does not define it"
    download = _find_function(tree, f"download_{name}")
    return RecipeSignature(name, module, prepare_function, download, _find_url(tree, f"download_{name}"))


@cache
def _recipes_folder() -> Path | None:
    spec = find_spec("lhotse")
    return Path(spec.origin).parent / "recipes" if spec is not None and spec.origin else None


@cache
def _exported_recipes() -> dict[str, tuple[str, str]]:
    """Map each recipe name to (module, name of its prepare function)."""
    folder = _recipes_folder()
    if folder is None:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for statement in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                if alias.name.startswith("prepare_"):
                    name = _NAMES.get(alias.name, alias.name.removeprefix("prepare_"))
                    found[name] = (statement.module, alias.name)
    return found


def _find_function(tree: ast.Module, name: str) -> RecipeFunction | None:
    """Find the function `name` in a module, following aliases (`prepare_a = prepare_b`)."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return RecipeFunction(name, _parameters(statement.args), _annotations(statement.args))
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
            targets = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            original = _find_function(tree, statement.value.id) if name in targets else None
            if original is not None:
                return replace(original, name=name)
    return None


def _parameters(args: ast.arguments) -> dict[str, bool]:
    positional = [*args.posonlyargs, *args.args]
    without_default = len(positional) - len(args.defaults)
    found = {arg.arg: index < without_default for index, arg in enumerate(positional)}
    keyword_only = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return found | {arg.arg: default is None for arg, default in keyword_only}


def _annotations(args: ast.arguments) -> dict[str, str]:
    """Map each annotated parameter to its annotation's source; a default of None makes it optional."""
    positional = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(positional) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    found = {}
    for arg, default in zip([*positional, *args.kwonlyargs], defaults, strict=True):
        if arg.annotation is not None:
            text = ast.unparse(arg.annotation)
            is_none = isinstance(default, ast.Constant) and default.value is None
            found[arg.arg] = f"Optional[{text}]" if is_none else text
    return found


def _find_url(tree: ast.Module, download: str) -> str | None:
    """Return the default of the downloader's `url` or `base_url`, else the first web address in the module."""
    named: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            named[statement.targets[0].id] = statement.value
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == download:
            defaults = statement.args.defaults
            parameters = statement.args.args[len(statement.args.args) - len(defaults) :]
            for parameter, default in zip(parameters, defaults, strict=True):
                value = named.get(default.id, default) if isinstance(default, ast.Name) else default
                if parameter.arg in ("base_url", "url") and _web_address(value):
                    return _web_address(value)
    return next(filter(None, map(_web_address, ast.walk(tree))), None)


def _web_address(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("http:", "https:")):
        return node.value
    return None
