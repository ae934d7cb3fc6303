"""Calling a function of a lhotse recipe, with its failures made into DataErrors."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from data_manager.errors import MEND, DataError, plain
from data_manager.lhotse_recipes import RecipeFunction, RecipeSignature
from data_manager.progress import quiet
from data_manager.recipe_notes import recipe_notes


def import_lhotse() -> Any:
    """The module lhotse; raises DataError where it, or a package that it needs without saying so, is missing."""
    try:
        import lhotse
    except ImportError as error:
        raise DataError(f"speech corpora need lhotse: {error}; pip install lhotse urllib3 soundfile") from error
    return lhotse


def call_recipe(
    corpus: str,
    recipe: RecipeSignature,
    function: RecipeFunction,
    arguments: Mapping[str, Any],
    notes: list[str] | None = None,
) -> Any:
    """What `function` of a recipe gives for `arguments`; what it prints goes to stderr, its warnings into `notes`.

    Raises DataError for anything that it raises, as recipes meet a wrong layout with whatever comes of it.
    """
    import_lhotse()
    module = import_module(f"lhotse.recipes.{recipe.module}")
    try:
        with quiet(module), recipe_notes([] if notes is None else notes):
            return getattr(module, function.name)(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        detail = plain(error) or "an assertion of lhotse's does not hold"
        is_audio = type(error).__name__ == "AudioLoadingError"
        remedy = MEND if is_audio else "Is the corpus complete, and laid as lhotse's downloader lays it?"
        told = f"{function.name}({given}) failed: {type(error).__name__}: {detail}"
        raise DataError(f"corpus {corpus!r}: {told}\n{remedy}") from error
