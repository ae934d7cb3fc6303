"""The source `lhotse`: prepare a speech corpus with its lhotse recipe, cache it, and load its cuts."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from data_manager.cache import PreparedFolder
from data_manager.documents import Notes
from data_manager.errors import DataError
from data_manager.loaded import LoadedCache
from data_manager.paths import full_path
from data_manager.speech.cuts import SpeechCorpus, shape_splits
from data_manager.speech.download import (
    PARTS,
    call_recipe,
    find_parts,
    import_lhotse,
    missing_parts,
    obtain_corpus,
    requested_parts,
)
from data_manager.speech.features import drop_unreadable, store_features, tolerate_bad_headers
from data_manager.speech.manifests import fingerprint, load_prepared_cuts, split_cuts, write_cuts
from data_manager.speech.mixture import load_mixture
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.recipes import OUTPUT, RecipeSignature, is_lhotse_installed, recipe_signature
from data_manager.speech.types import LhotseDatasetConfig, SpeechConfig
from data_manager.tokenizers.base import unknown_id
from data_manager.tokenizers.factory import tokenizer_of

LOADED: LoadedCache[SpeechCorpus] = LoadedCache(lambda config: config.model_dump_json(), logging.getLogger(__name__))
"""Corpora that this process has loaded."""


def load_speech(config: SpeechConfig) -> dict[str, Any]:
    """Load a corpus or a mixture as `{split: CutSet}`, with the recipe's part names as splits. Raise DataError."""
    if isinstance(config, SpeechMixtureConfig):
        corpus = load_mixture(config, load_corpus)
    else:
        assert isinstance(config, LhotseDatasetConfig)
        corpus = load_corpus(config)
    if config.tokenizer is not None:
        corpus.notes.extend(_count_unknown(config, corpus))
    LOADED.store(config, corpus, corpus.notes)
    return corpus.splits


def _count_unknown(config: SpeechConfig, corpus: SpeechCorpus) -> list[str]:
    """Return notes on the unknown tokens of the transcripts, by split and cut."""
    texts = _transcripts(corpus)
    tokenizer = tokenizer_of(config, lambda: texts)
    unknown = unknown_id(tokenizer)
    found: list[str] = []
    if unknown is None:
        return found
    for split, cuts in corpus.splits.items():
        notes = Notes()
        for cut, text in zip(cuts, texts[split], strict=True):
            if count := tokenizer.encode(text).count(unknown):
                notes.add_unknown(count, cut.id)
        found += notes.lines(split)
    return found


def get_speech_corpus(config: SpeechConfig) -> SpeechCorpus:
    """Return the cached corpus, or load it; raise DataError."""
    found = LOADED.get(config)
    if found is None:
        load_speech(config)
        found = LOADED.get(config)
    assert found is not None
    return found


def get_transcripts(config: SpeechConfig) -> dict[str, list[str]]:
    """Return the transcripts of each split, for training a tokenizer; raise DataError."""
    return _transcripts(get_speech_corpus(config))


def _transcripts(corpus: SpeechCorpus) -> dict[str, list[str]]:
    from data_manager.speech.loader import transcript

    return {split: [transcript(cut) for cut in cuts] for split, cuts in corpus.splits.items()}


def load_corpus(config: LhotseDatasetConfig) -> SpeechCorpus:
    """Load one corpus from corpus_dir, downloading it if it is missing and reachable.

    Manifests and stored features are cached in output_dir/name. Raise DataError.
    """
    if not is_lhotse_installed():
        import_lhotse()
    recipe = recipe_signature(config.name)
    root, parts = None, {}
    if recipe.root is not None:
        wanted = requested_parts(config)
        root = obtain_corpus(config, recipe, missing_parts(config, wanted))
        if config.name == "librispeech":
            parts = {PARTS: wanted or find_parts(root)}
    folder, splits = _prepare_corpus(config, recipe, root, parts)
    notes = [*folder.notes]
    splits = shape_splits(splits, config, notes)
    if config.features.storage == "on_the_fly":
        return SpeechCorpus(splits, [folder.path], notes)

    folders, splits = store_features(splits, config, folder.path)
    return SpeechCorpus(splits, [folder.path, *folders], notes)


def _prepare_corpus(
    config: LhotseDatasetConfig, recipe: RecipeSignature, root: Path | None, more: dict[str, Any]
) -> tuple[PreparedFolder, dict[str, Any]]:
    """Run the recipe, or read its cached result; return the cache folder and the cuts of each split."""
    lhotse = import_lhotse()
    arguments = {**config.process_params, **more}
    if root is not None and recipe.root is not None:
        arguments[recipe.root] = str(root)
    output = full_path(config.global_config.output_dir) / config.name
    inputs = {
        "recipe": recipe.name,
        "lhotse": lhotse.__version__,
        # the number of processes does not change the result
        "arguments": {key: value for key, value in arguments.items() if key != "num_jobs"},
        "files": _fingerprint_inputs(recipe, arguments),
        "bad_audio": config.loading.bad_audio,
    }

    prepare = partial(_write_manifests, config=config, recipe=recipe, arguments=arguments)
    return load_prepared_cuts(output, inputs, prepare)


def _write_manifests(
    folder: Path, final: Path, *, config: LhotseDatasetConfig, recipe: RecipeSignature, arguments: dict[str, Any]
) -> list[str]:
    """Run the recipe and write its output and cuts into `folder`, which will be moved to `final`; return the skip log."""
    notes: list[str] = []
    writes = {OUTPUT: str(folder / "recipe")} if OUTPUT in recipe.prepare.parameters else {}
    drops_bad_audio = config.loading.bad_audio == "drop"
    with tolerate_bad_headers() if drops_bad_audio else nullcontext():
        made = call_recipe(config.name, recipe, recipe.prepare, {**arguments, **writes}, notes)
    found = dict(split_cuts(made, notes))
    if drops_bad_audio:
        found = {split: drop_unreadable(cuts, split, notes) for split, cuts in found.items()}
        found = {split: cuts for split, cuts in found.items() if cuts}
    if sum(write_cuts(folder, split, cuts, final=final) for split, cuts in found.items()) == 0:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        details = "".join(f"\n  {note}" for note in notes[:10])
        raise DataError(f"corpus {config.name!r}: {recipe.prepare.name}({given}) found no recordings{details}")
    return notes


def _fingerprint_inputs(recipe: RecipeSignature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprint the files named in a recipe's arguments, to detect changes."""
    annotations = recipe.prepare.annotations
    named = {key: value for key, value in arguments.items() if "Path" in annotations.get(key, "")}
    given = {key: value if isinstance(value, list) else [value] for key, value in named.items()}
    paths = {str(path): full_path(path) for values in given.values() for path in values if isinstance(path, str)}
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}
