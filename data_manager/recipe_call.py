"""Call lhotse recipe functions and convert their failures into DataErrors."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from data_manager.errors import MEND, DataError, plain
from data_manager.lhotse_recipes import RecipeFunction, RecipeSignature
from data_manager.progress import redirect_recipe_output
from data_manager.recipe_notes import collect_warnings


def import_lhotse() -> Any:
    """Import lhotse; raise DataError if it, or one of its undeclared dependencies, is missing."""
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
    """Call a recipe's `function`; send its output to stderr and append its warnings to `notes`.

    Raise DataError for any exception: recipes fail in many ways on an unexpected folder layout.
    """
    import_lhotse()
    module = import_module(f"lhotse.recipes.{recipe.module}")
    try:
        with redirect_recipe_output(module), collect_warnings([] if notes is None else notes):
            return getattr(module, function.name)(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        detail = plain(error) or "an assertion in lhotse failed"
        is_audio = type(error).__name__ == "AudioLoadingError"
        remedy = (
            MEND if is_audio else "Check that the corpus is complete and has the folder layout of lhotse's downloader."
        )
        failure = f"{function.name}({given}) failed: {type(error).__name__}: {detail}"
        raise DataError(f"corpus {corpus!r}: {failure}\n{remedy}") from error
