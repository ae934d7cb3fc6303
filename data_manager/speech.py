"""The source `lhotse`: a speech corpus by the name of its recipe to cuts, one a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_manager.corpus_folder import find_corpus, obtain_corpus
from data_manager.dataset_types import LhotseDatasetConfig
from data_manager.errors import DataError
from data_manager.lhotse_recipes import OUTPUT, RecipeSignature, is_lhotse_installed, recipe_signature
from data_manager.manifests import fingerprint, prepared
from data_manager.recipe_call import call_recipe, import_lhotse
from data_manager.text_files import full_path

PARTS = "dataset_parts"
_MINI = ("dev-clean-2", "train-clean-5")
_PARTS_BY_NAME = {
    "mini_librispeech": _MINI,
    "librispeech": (
        *("dev-clean", "dev-other", "test-clean", "test-other"),
        *("train-clean-100", "train-clean-360", "train-other-500"),
    ),
}
"""Names that LibriSpeech's downloader takes for several parts; its `prepare` takes the parts themselves."""


def load_speech(config: LhotseDatasetConfig) -> dict[str, Any]:
    """`{split: CutSet}`, the splits named as the recipe's parts. Raises DataError.

    The corpus is looked for below corpus_dir and downloaded where it is missing and can be reached; manifests are
    kept in output_dir/name. Features are computed later, while batches are made.
    """
    if not is_lhotse_installed():
        import_lhotse()
    recipe = recipe_signature(config.name)
    if recipe.root is None:
        return _prepared(config, recipe, None, {})
    wanted = _wanted_parts(config)
    root = obtain_corpus(config, recipe, _missing_parts(config, wanted))
    if config.name != "librispeech":
        return _prepared(config, recipe, root, {})
    parts = wanted or _parts_in(root)
    return _prepared(config, recipe, root, {PARTS: parts})


def _wanted_parts(config: LhotseDatasetConfig) -> list[str]:
    """Parts of LibriSpeech that the file asks for, to be prepared or else to be downloaded; none: those on disk."""
    given = config.process_params.get(PARTS, config.download_params.get(PARTS, "auto"))
    if config.name != "librispeech" or given == "auto":
        return []
    if isinstance(given, str):
        return list(_PARTS_BY_NAME.get(given, (given,)))
    if not isinstance(given, Sequence) or not all(isinstance(part, str) for part in given):
        raise DataError(f"corpus {config.name!r}: {PARTS} must be a name or a list of names; got {given!r}")
    return list(given)


def _missing_parts(config: LhotseDatasetConfig, wanted: Sequence[str]) -> list[str]:
    """Those of the parts that are not on disk; a part that no LibriSpeech has is an error."""
    known = [part for parts in _PARTS_BY_NAME.values() for part in parts]
    root = find_corpus(config.name, config.global_config.corpus_dir)
    missing = [part for part in wanted if root is None or not (root / part).is_dir()]
    for part in missing:
        if part not in known:
            raise DataError(f"corpus {config.name!r} has no part {part!r}; its parts are {', '.join(known)}")
    return missing


def _parts_in(root: Path) -> list[str]:
    """Folders that hold transcripts, sorted."""
    return sorted(path.name for path in root.iterdir() if next(path.glob("*/*/*.trans.txt"), None) is not None)


def _prepared(
    config: LhotseDatasetConfig, recipe: RecipeSignature, root: Path | None, more: dict[str, Any]
) -> dict[str, Any]:
    lhotse = import_lhotse()
    arguments = {**config.process_params, **more}
    if root is not None and recipe.root is not None:
        arguments[recipe.root] = str(root)
    inputs = {
        "recipe": recipe.name,
        "lhotse": lhotse.__version__,
        "arguments": arguments,
        "corpus": fingerprint(root) if root else None,
    }

    def prepare(folder: Path) -> Any:
        writes = {OUTPUT: str(folder)} if OUTPUT in recipe.prepare.parameters else {}
        return call_recipe(config.name, recipe, recipe.prepare, {**arguments, **writes})

    output = full_path(config.global_config.output_dir) / config.name
    splits = prepared(output, inputs, prepare)
    if not splits:
        where = f" in {root}" if root else ""
        raise DataError(f"corpus {config.name!r}: {recipe.prepare.name} found no recordings{where}")
    return splits
