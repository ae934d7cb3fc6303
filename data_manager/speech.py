"""The source `lhotse`: a speech corpus by the name of its recipe to cuts, prepared once and kept."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_manager.bad_audio import readable, stand_ins
from data_manager.corpus_download import obtain_corpus
from data_manager.errors import DataError
from data_manager.fingerprint import fingerprint
from data_manager.lhotse_recipes import OUTPUT, RecipeSignature, is_lhotse_installed, recipe_signature
from data_manager.librispeech_parts import PARTS, missing_parts, parts_in, wanted_parts
from data_manager.manifests import prepared_cuts, split_cuts, write_cuts
from data_manager.prepared_folder import PreparedFolder
from data_manager.recipe_call import call_recipe, import_lhotse
from data_manager.speech_cuts import shape_splits
from data_manager.speech_types import LhotseDatasetConfig, SpeechConfig
from data_manager.text_files import full_path
from yaml_config.errors import harmless


@dataclass(frozen=True)
class SpeechCorpus:
    """Cuts of each split, the folders in which what was prepared is kept, and what was left out."""

    splits: dict[str, Any]
    folders: list[Path]
    notes: list[str]


_log = logging.getLogger(__name__)
_loaded: dict[str, SpeechCorpus] = {}


def load_speech(config: SpeechConfig) -> dict[str, Any]:
    """`{split: CutSet}` of a corpus or a mixture, the splits named as the recipe's parts. Raises DataError."""
    from data_manager.speech_mixture import load_mixture
    from data_manager.speech_mixture_types import SpeechMixtureConfig

    if isinstance(config, SpeechMixtureConfig):
        corpus = load_mixture(config)
    else:
        assert isinstance(config, LhotseDatasetConfig)
        corpus = load_corpus(config)
    key = config.model_dump_json()
    told = _loaded[key].notes if key in _loaded else []
    _loaded[key] = corpus
    for note in corpus.notes:
        if note not in told:
            _log.warning("%s", harmless(f"{config.name}: {note}"))
    return corpus.splits


def speech_corpus(config: SpeechConfig) -> SpeechCorpus:
    """The corpus as it was loaded last, or loaded now; raises DataError."""
    if config.model_dump_json() not in _loaded:
        load_speech(config)
    return _loaded[config.model_dump_json()]


def speech_texts(config: SpeechConfig) -> dict[str, list[str]]:
    """The transcripts of each split, from which a tokenizer is made; raises DataError."""
    from data_manager.speech_batches import transcript

    return {split: [transcript(cut) for cut in cuts] for split, cuts in speech_corpus(config).splits.items()}


def load_corpus(config: LhotseDatasetConfig) -> SpeechCorpus:
    """One corpus, looked for below corpus_dir and downloaded where it is missing and can be reached.

    Manifests and stored features are kept in output_dir/name. Raises DataError.
    """
    if not is_lhotse_installed():
        import_lhotse()
    recipe = recipe_signature(config.name)
    root, parts = None, {}
    if recipe.root is not None:
        wanted = wanted_parts(config)
        root = obtain_corpus(config, recipe, missing_parts(config, wanted))
        if config.name == "librispeech":
            parts = {PARTS: wanted or parts_in(root)}
    folder, splits = _prepared(config, recipe, root, parts)
    notes = [*folder.notes]
    splits = shape_splits(splits, config, notes)
    if config.features.storage == "on_the_fly":
        return SpeechCorpus(splits, [folder.path], notes)
    from data_manager.speech_storage import store_features

    folders, splits = store_features(splits, config, folder.path)
    return SpeechCorpus(splits, [folder.path, *folders], notes)


def _prepared(
    config: LhotseDatasetConfig, recipe: RecipeSignature, root: Path | None, more: dict[str, Any]
) -> tuple[PreparedFolder, dict[str, Any]]:
    """The cuts that the recipe makes, and the folder in which they are kept."""
    lhotse = import_lhotse()
    arguments = {**config.process_params, **more}
    if root is not None and recipe.root is not None:
        arguments[recipe.root] = str(root)
    output = full_path(config.global_config.output_dir) / config.name
    inputs = {
        "recipe": recipe.name,
        "lhotse": lhotse.__version__,
        # how many processes work does not change what they make
        "arguments": {key: value for key, value in arguments.items() if key != "num_jobs"},
        "files": _fingerprints(recipe, arguments),
        "bad_audio": config.loading.bad_audio,
    }

    make = partial(_write_manifests, config=config, recipe=recipe, arguments=arguments)
    return prepared_cuts(output, inputs, make)


def _write_manifests(
    folder: Path, final: Path, *, config: LhotseDatasetConfig, recipe: RecipeSignature, arguments: dict[str, Any]
) -> list[str]:
    """Write what the recipe makes, and its cuts, into `folder`, which will be moved to `final`; what was left out."""
    notes: list[str] = []
    writes = {OUTPUT: str(folder / "recipe")} if OUTPUT in recipe.prepare.parameters else {}
    drops = config.loading.bad_audio == "drop"
    with stand_ins() if drops else nullcontext():
        made = call_recipe(config.name, recipe, recipe.prepare, {**arguments, **writes}, notes)
    found = dict(split_cuts(made, notes))
    if drops:
        found = {split: readable(cuts, split, notes) for split, cuts in found.items()}
        found = {split: cuts for split, cuts in found.items() if cuts}
    if sum(write_cuts(folder, split, cuts, final=final) for split, cuts in found.items()) == 0:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        said = "".join(f"\n  {note}" for note in notes[:10])
        raise DataError(f"corpus {config.name!r}: {recipe.prepare.name}({given}) found no recordings{said}")
    return notes


def _fingerprints(recipe: RecipeSignature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What tells whether the files have changed that a recipe's arguments name."""
    annotations = recipe.prepare.annotations
    named = {key: value for key, value in arguments.items() if "Path" in annotations.get(key, "")}
    given = {key: value if isinstance(value, list) else [value] for key, value in named.items()}
    paths = {str(path): full_path(path) for values in given.values() for path in values if isinstance(path, str)}
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}
