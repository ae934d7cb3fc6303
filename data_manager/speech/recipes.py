"""Read names and parameters of lhotse's recipes from its source: importing lhotse takes a second or two.

A recipe is a function `prepare_NAME` that `lhotse.recipes` exports, or that its module NAME defines, with a
`download_NAME` if the corpus can be downloaded. Only the requested recipe's file is parsed (about 5 ms).
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from model_factory.yaml_config.registry import UnknownNameError, closest
from model_factory.yaml_config.strict_model import Violation

ROOTS = ("corpus_dir", "data_dir", "tedlium_root")
"""Names that recipes use for the corpus folder parameter."""


_OTHER_ROOTS = {"icsi": "audio_dir", "voxceleb1": "voxceleb1_root", "voxceleb2": "voxceleb2_root"}
"""Corpus folder parameters that can also be set in process_params."""


OUTPUT = "output_dir"


NUM_JOBS = "num_jobs"
"""Parameter for the number of processes, which is 1 if a recipe requires it."""


TARGETS = ("target_dir", "corpus_dir")
"""Names that downloaders use for the target folder parameter."""


_NAMES = {"prepare_single_babel_language": "babel"}


_PARTS = {"voxceleb1": "voxceleb", "voxceleb2": "voxceleb"}
"""Parts of a corpus with separate downloaders, and the recipe that prepares them."""


_HUB_MODULES = ("huggingface_hub", "datasets")


@dataclass(frozen=True)
class RecipeFunction:
    """Signature of a recipe function: ordered parameters, each mapped to True if required, and their annotations."""

    name: str
    parameters: dict[str, bool]
    annotations: dict[str, str] = field(default_factory=dict)

    def required(self) -> list[str]:
        """List the parameters without a default."""
        return [name for name, is_required in self.parameters.items() if is_required]


class RecipeSignature(NamedTuple):
    """Signature of a recipe. `download` is None if lhotse cannot download the corpus; `url` is its source.

    `uses_hub` is True if the downloader uses the Hugging Face hub; `parts` are corpora that are downloaded apart.
    """

    name: str
    module: str
    prepare: RecipeFunction
    download: RecipeFunction | None
    url: str | None
    uses_hub: bool = False
    parts: tuple[str, ...] = ()

    @property
    def root(self) -> str | None:
        """Return the parameter of `prepare` for the corpus folder; None if it needs several folders."""
        names = (*ROOTS, _OTHER_ROOTS.get(self.name))
        return next((name for name in names if name in self.prepare.parameters), None)

    @property
    def can_download(self) -> bool:
        """Return True if lhotse has a downloader for the corpus or its parts."""
        return self.download is not None or bool(self.parts)


def is_lhotse_installed() -> bool:
    """Return True if lhotse is installed; without it no recipe is known."""
    return _recipes_folder() is not None


def recipe_names() -> list[str]:
    """List the names of all recipes, sorted; empty if lhotse is not installed."""
    return sorted(_exported_recipes())


@cache
def recipe_signature(name: str) -> RecipeSignature:
    """Return the signature of the recipe `name`; raise UnknownNameError with the closest name."""
    tree = recipe_module(name)
    module, prepare = _exported_recipes()[name]
    prepare_function = _find_function(tree, prepare)
    assert prepare_function is not None, f"lhotse.recipes exports {prepare}, and {module}.py does not define it"
    download = _find_function(tree, f"download_{name}")
    parts = tuple(part for part, whole in _PARTS.items() if whole == name)
    url = _find_url(tree, f"download_{name}")
    return RecipeSignature(name, module, prepare_function, download, url, _imports(tree, _HUB_MODULES), parts)


@cache
def recipe_module(name: str) -> ast.Module:
    """Parse the module of the recipe `name`; raise UnknownNameError with the closest name."""
    exported = _exported_recipes()
    folder = _recipes_folder()
    if folder is None or name not in exported:
        raise UnknownNameError("lhotse corpus", name, sorted(exported))
    return ast.parse((folder / f"{exported[name][0]}.py").read_text(encoding="utf-8"))


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
    modules = {module for module, _ in found.values()}
    for path in folder.glob("*.py"):  # lhotse's command line has recipes that are not exported
        name = path.stem
        if name not in modules and re.search(rf"^def prepare_{name}\(", path.read_text(encoding="utf-8"), re.M):
            found[name] = (name, f"prepare_{name}")
    return found | {part: found[whole] for part, whole in _PARTS.items() if whole in found}


def _imports(tree: ast.Module, modules: tuple[str, ...]) -> bool:
    """Return True if a module imports one of `modules`, inside functions too."""
    imported = (node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return any(module.split(".")[0] in modules for module in imported)


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


# Check values against the annotations in the source of lhotse's recipes.


_LISTS = ("Sequence", "List", "list", "Iterable", "Tuple", "tuple", "Set", "set")


_UNIONS = ("Union", "Optional")


class Kind(NamedTuple):
    """Type of value: its name in the singular and plural, and a predicate for values."""

    name: str
    plural: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_STRING = Kind("a string", "strings", lambda value: isinstance(value, str))


_NUMBER = Kind("a number", "numbers", _is_number)


_NULL = Kind("null", "nulls", lambda value: value is None)


_KINDS = {
    "str": _STRING,
    "Pathlike": Kind("a path", "paths", lambda value: isinstance(value, str)),
    "Path": Kind("a path", "paths", lambda value: isinstance(value, str)),
    "int": Kind("an integer", "integers", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": _NUMBER,
    "Seconds": _NUMBER,
    "bool": Kind("true or false", "booleans", lambda value: isinstance(value, bool)),
    "None": _NULL,
}


def expected_kind(annotation: str | None, value: Any) -> str | None:
    """Describe the expected type if `value` (plain data from a file) does not match `annotation`; None if it does."""
    kinds = _parse_kinds(ast.parse(annotation, mode="eval").body) if annotation else None
    if kinds is None or any(kind.accepts(value) for kind in kinds):
        return None
    return " or ".join(dict.fromkeys(kind.name for kind in kinds))


def _parse_kinds(node: ast.expr) -> list[Kind] | None:
    """List the kinds that an annotation allows; None if it is not a simple one."""
    if isinstance(node, ast.Name | ast.Constant):
        known = _KINDS.get(node.id if isinstance(node, ast.Name) else str(node.value))
        return [known] if known else None
    if isinstance(node, ast.BinOp):
        return _parse_union([node.left, node.right])
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if node.value.id in _UNIONS:
        found = _parse_union(inner)
        return [*found, _NULL] if found and node.value.id == "Optional" else found
    items = _parse_kinds(inner[0]) if node.value.id in _LISTS else None
    return [_list_of(items)] if items else None


def _parse_union(members: list[ast.expr]) -> list[Kind] | None:
    found: list[Kind] = []
    for member in members:
        kinds = _parse_kinds(member)
        if kinds is None:
            return None
        found += kinds
    return found


def _list_of(items: list[Kind]) -> Kind:
    name = "a list of " + " or ".join(kind.plural for kind in items)
    return Kind(
        name, "lists", lambda value: isinstance(value, list) and all(_matches_any(items, item) for item in value)
    )


def _matches_any(kinds: list[Kind], value: Any) -> bool:
    return any(kind.accepts(value) for kind in kinds)


# Check the name and parameters of a lhotse corpus against its recipe's signature.


def check_corpus_name(name: str) -> Iterator[Violation]:
    """Yield a violation at `name` if lhotse is installed and has no such recipe."""
    known = recipe_names()
    if not is_lhotse_installed() or name in known:
        return
    near = closest(name, known)
    custom_data = "for custom files write source: text and data_files"
    hint = f"did you mean {near!r}? {custom_data[0].upper()}{custom_data[1:]}" if near else custom_data
    message = f"lhotse has no recipe for a corpus {name!r} (one of its {len(known)} is librispeech)"
    yield Violation(message, ("name",), suggestion=hint, code="choice")


def recipe_violations(name: str, download: Mapping[str, Any], process: Mapping[str, Any]) -> Iterator[Violation]:
    """Yield violations for unknown and missing parameters of the recipe `name`; skip an unknown recipe."""
    if name not in recipe_names():
        return
    recipe = recipe_signature(name)
    if recipe.download is not None:
        yield from _check_parameters("download_params", recipe.download, download, TARGETS)
    elif recipe.parts and download:
        message = f"{name} is downloaded in the parts {' and '.join(recipe.parts)}, without parameters"
        yield Violation(message, ("download_params",), suggestion="remove download_params", code="unknown_key")
    elif download:
        message = f"lhotse cannot download {name}, so download_params is not allowed"
        yield Violation(message, ("download_params",), suggestion="remove download_params", code="unknown_key")
    reserved = (OUTPUT, *(root for root in ROOTS if root == recipe.root))
    yield from _check_parameters("process_params", recipe.prepare, process, reserved)
    known = {*process, *download, *reserved, recipe.root, NUM_JOBS}
    missing = [key for key in recipe.prepare.required() if key not in known]
    if missing:
        message = f"{recipe.prepare.name} needs {' and '.join(map(repr, missing))}"
        example = ", ".join(f"{key}: ..." for key in missing)
        yield Violation(message, ("process_params",), (("name",),), f"process_params: {{{example}}}", "missing_key")


def _check_parameters(
    key: str, function: RecipeFunction, given: Mapping[str, Any], reserved: tuple[str, ...]
) -> Iterator[Violation]:
    """Yield violations for parameters of section `key` that are unknown, of a wrong type, or set by global_config."""
    accepted = [name for name in function.parameters if name not in reserved]
    for name, value in given.items():
        if name in accepted:
            wanted = expected_kind(function.annotations.get(name), value)
            if wanted:
                shown = json.dumps(value, ensure_ascii=False, default=str)
                hint = f"{name}: [{value}]" if wanted.startswith("a list") and isinstance(value, str) else None
                hint = "leave it out" if value is None and not function.parameters[name] else hint
                message = f"{function.name} takes {wanted} for {name!r}; got {shown}"
                yield Violation(message, (key, name), (("name",),), hint, "type")
            continue
        if name in reserved:
            message, hint = f"{name!r} is set by global_config", "set corpus_dir or output_dir in global_config"
        else:
            near = closest(str(name), accepted)
            message = f"{function.name} has no parameter {name!r}"
            hint = f"did you mean {near!r}?" if near else f"it takes {', '.join(accepted) or 'none'}"
        yield Violation(message, (key, name), (("name",),), hint, "unknown_key")
