"""What is wrong with the name and the parameters of a lhotse corpus, told from its recipe's signature."""

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
from data_manager.recipe_values import wrong_value
from yaml_config.registry import closest
from yaml_config.strict_model import Violation


def unknown_corpus(name: str) -> Iterator[Violation]:
    """A violation at `name` where lhotse is installed and has no such recipe."""
    known = recipe_names()
    if not is_lhotse_installed() or name in known:
        return
    near = closest(name, known)
    own_files = "for files of your own write source: text and data_files"
    hint = f"did you mean {near!r}? {own_files[0].upper()}{own_files[1:]}" if near else own_files
    message = f"lhotse has no recipe for a corpus {name!r} (one of its {len(known)} is librispeech)"
    yield Violation(message, ("name",), suggestion=hint, code="choice")


def recipe_violations(name: str, download: Mapping[str, Any], process: Mapping[str, Any]) -> Iterator[Violation]:
    """Parameters that the recipe `name` does not take, and ones that it needs; none where `name` is unknown."""
    if name not in recipe_names():
        return
    recipe = recipe_signature(name)
    if recipe.download is not None:
        yield from _unknown("download_params", recipe.download, download, TARGETS)
    elif download:
        message = f"lhotse cannot download {name}, so it takes no download_params"
        yield Violation(message, ("download_params",), suggestion="leave them out", code="unknown_key")
    ours = tuple(filter(None, (recipe.root, OUTPUT)))
    yield from _unknown("process_params", recipe.prepare, process, ours)
    missing = [key for key in recipe.prepare.required() if key not in process and key not in ours]
    if missing:
        message = f"{recipe.prepare.name} needs {' and '.join(map(repr, missing))}"
        example = ", ".join(f"{key}: ..." for key in missing)
        yield Violation(message, ("process_params",), (("name",),), f"process_params: {{{example}}}", "missing_key")


def _unknown(
    key: str, function: RecipeFunction, given: Mapping[str, Any], ours: tuple[str, ...]
) -> Iterator[Violation]:
    """Parameters of the section `key` that `function` does not take, of a wrong kind, or that global_config gives."""
    takes = [name for name in function.parameters if name not in ours]
    for name, value in given.items():
        if name in takes:
            wanted = wrong_value(function.annotations.get(name), value)
            if wanted:
                shown = json.dumps(value, ensure_ascii=False, default=str)
                hint = f"{name}: [{value}]" if wanted.startswith("a list") and isinstance(value, str) else None
                message = f"{function.name} takes {wanted} for {name!r}; got {shown}"
                yield Violation(message, (key, name), (("name",),), hint, "type")
            continue
        if name in ours:
            message, hint = f"{name!r} follows from global_config", "set corpus_dir or output_dir in global_config"
        else:
            near = closest(str(name), takes)
            message = f"{function.name} has no parameter {name!r}"
            hint = f"did you mean {near!r}?" if near else f"it takes {', '.join(takes) or 'none'}"
        yield Violation(message, (key, name), (("name",),), hint, "unknown_key")
