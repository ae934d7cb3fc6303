"""Check the name and parameters of a lhotse corpus against its recipe's signature."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_manager.lhotse_recipes import (
    OUTPUT,
    TARGETS,
    RecipeFunction,
    is_lhotse_installed,
    recipe_names,
    recipe_signature,
)
from data_manager.recipe_values import expected_kind
from yaml_config.registry import closest
from yaml_config.strict_model import Violation


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
    elif download:
        message = f"lhotse cannot download {name}, so download_params is not allowed"
        yield Violation(message, ("download_params",), suggestion="remove download_params", code="unknown_key")
    reserved = tuple(filter(None, (recipe.root, OUTPUT)))
    yield from _check_parameters("process_params", recipe.prepare, process, reserved)
    missing = [key for key in recipe.prepare.required() if key not in process and key not in reserved]
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
