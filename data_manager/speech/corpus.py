"""Load speech: the cuts of a lhotse recipe, of the user's files, of a custom source or of a mixture.

The source `lhotse` is here: a corpus is prepared with its recipe and cached.
"""

import logging
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_manager.cache import PreparedFolder
from data_manager.documents import Notes
from data_manager.errors import DataError
from data_manager.loaded import LoadedCache
from data_manager.paths import full_path
from data_manager.registry import SOURCES
from data_manager.rows.identity import row_identity
from data_manager.speech.audio import checked_headers, drop_unreadable
from data_manager.speech.cuts import SpeechCorpus, shape_splits
from data_manager.speech.download import (
    PARTS,
    WITH_PARTS,
    InvalidLineError,
    LayoutError,
    call_recipe,
    find_parts,
    import_lhotse,
    missing_parts,
    obtain_corpus,
    requested_parts,
)
from data_manager.speech.features import store_features
from data_manager.speech.invalid_lines import find_invalid_lines, skip_lines
from data_manager.speech.locate import find_corpora
from data_manager.speech.manifests import (
    fingerprint,
    load_prepared_cuts,
    named_lost_segments,
    split_cuts,
    write_cuts,
)
from data_manager.speech.mixture import load_mixture
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.own.prepare import prepare_own
from data_manager.speech.own.types import OwnSpeechConfig
from data_manager.speech.recipes import NUM_JOBS, OUTPUT, RecipeSignature, is_lhotse_installed, recipe_signature
from data_manager.speech.transcripts import transcript
from data_manager.speech.types import LhotseDatasetConfig, SpeechConfig, SpeechCorpusConfig
from data_manager.tokenizers.base import unknown_id
from data_manager.tokenizers.factory import tokenizer_of

LOADED: LoadedCache[SpeechCorpus] = LoadedCache(lambda config: config.model_dump_json(), logging.getLogger(__name__))
"""Corpora that this process has loaded."""


def load_speech(config: SpeechConfig) -> dict[str, Any]:
    """Load a corpus or a mixture as `{split: CutSet}`, with the recipe's part names as splits. Raise DataError."""
    if isinstance(config, SpeechMixtureConfig):
        corpus = load_mixture(config, load_corpus)
    else:
        assert isinstance(config, SpeechCorpusConfig)
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
    return {split: [transcript(cut) for cut in cuts] for split, cuts in corpus.splits.items()}


def load_corpus(config: SpeechCorpusConfig) -> SpeechCorpus:
    """Load one corpus, with its text, windows and filters applied.

    One of a lhotse recipe is read from corpus_dir, or downloaded if it is missing and reachable. Manifests and stored
    features are cached in output_dir/name. Raise DataError.
    """
    if not is_lhotse_installed():
        import_lhotse()
    notes: list[str] = []
    if isinstance(config, LhotseDatasetConfig):
        recipe = recipe_signature(config.name)
        folder, splits = _prepare_first(config, recipe, _find_roots(config, recipe, notes))
    elif isinstance(config, OwnSpeechConfig):
        folder, splits = prepare_own(config)
    else:
        folder, splits = _load_custom(config)
    notes += folder.notes
    folders = [folder.path] if folder.path.is_dir() else []
    splits = shape_splits(splits, config, notes)
    if config.features.storage == "on_the_fly":
        return SpeechCorpus(splits, folders, notes)

    stored, splits = store_features(splits, config, folder.path)
    return SpeechCorpus(splits, [*folders, *stored], notes)


def _load_custom(config: SpeechCorpusConfig) -> tuple[PreparedFolder, dict[str, Any]]:
    """Call the loader of a custom source; return a name for the folders of its features, and the cuts of each split."""
    from lhotse import CutSet

    found = SOURCES.get(config.source).load(config)
    for split, cuts in found.items() if isinstance(found, dict) else [("", found)]:
        if not isinstance(found, dict) or not isinstance(cuts, CutSet):
            where = f"split {split!r} as a {type(cuts).__name__}" if split else f"a {type(cuts).__name__}"
            raise DataError(
                f"data set {config.name!r}: source {config.source!r} must return a dict of split to lhotse.CutSet, as its "
                f"config is a SpeechCorpusConfig; it returned {where}"
            )
    splits = {split: cuts.to_eager() for split, cuts in found.items()}
    name = sha256(repr(sorted((split, row_identity(cuts)) for split, cuts in splits.items())).encode()).hexdigest()[:12]
    return PreparedFolder(full_path(config.global_config.output_dir) / config.name / name, []), splits


def _find_roots(config: LhotseDatasetConfig, recipe: RecipeSignature, notes: list[str]) -> list[dict[str, Any]]:
    """List the arguments of `prepare` with the folders of the corpus, likeliest first; download it if missing."""
    if recipe.parts:
        return [_find_parts(config, recipe, notes)]
    if recipe.root is None or recipe.root in config.process_params:
        return [{}]
    wanted = requested_parts(config)
    roots = obtain_corpus(config, recipe, missing_parts(config, wanted))
    if config.name in WITH_PARTS:
        return [{recipe.root: str(root), PARTS: wanted or find_parts(root)} for root in roots]
    return [{recipe.root: str(root)} for root in roots]


def _find_parts(config: LhotseDatasetConfig, recipe: RecipeSignature, notes: list[str]) -> dict[str, Any]:
    """Find the parts of a corpus that are downloaded apart; download all of them if none is there."""
    parts = {part: recipe_signature(part) for part in recipe.parts}
    if any(part.root in config.process_params for part in parts.values()):
        return {}
    corpora = config.global_config.corpus_dir
    found = [name for name, part in parts.items() if find_corpora(part, corpora)]
    for name in parts:
        if found and name not in found:
            notes.append(f"{name} is not in {full_path(corpora)}, so only {' and '.join(found)} is prepared")
    roots = {}
    for name in found or parts:
        part = parts[name]
        assert part.root is not None
        roots[part.root] = str(obtain_corpus(config.model_copy(update={"name": name}), part)[0])
    return roots


def _prepare_first(
    config: LhotseDatasetConfig, recipe: RecipeSignature, candidates: list[dict[str, Any]]
) -> tuple[PreparedFolder, dict[str, Any]]:
    """Prepare the corpus from the first folder in which its recipe finds recordings; raise the first DataError."""
    errors = []
    for root in candidates:
        try:
            return _prepare_corpus(config, recipe, root)
        except LayoutError as error:
            errors.append(error)
    raise errors[0]


def _prepare_corpus(
    config: LhotseDatasetConfig, recipe: RecipeSignature, root: dict[str, Any]
) -> tuple[PreparedFolder, dict[str, Any]]:
    """Run the recipe, or read its cached result; return the cache folder and the cuts of each split."""
    lhotse = import_lhotse()
    takes = recipe.prepare.parameters
    arguments = {key: value for key, value in config.download_params.items() if key in takes}
    if NUM_JOBS in recipe.prepare.required():
        arguments[NUM_JOBS] = 1
    arguments |= config.process_params | root
    output = full_path(config.global_config.output_dir) / config.name
    inputs = {
        "recipe": recipe.name,
        "lhotse": lhotse.__version__,
        # the number of processes does not change the result
        "arguments": {key: value for key, value in arguments.items() if key != NUM_JOBS},
        "files": _fingerprint_inputs(recipe, arguments),
        "bad_audio": config.loading.bad_audio,
        "on_invalid": config.on_invalid,
    }

    prepare = partial(_write_manifests, config=config, recipe=recipe, arguments=arguments)
    return load_prepared_cuts(output, inputs, prepare)


def _write_manifests(
    folder: Path, final: Path, *, config: LhotseDatasetConfig, recipe: RecipeSignature, arguments: dict[str, Any]
) -> list[str]:
    """Run the recipe and write its output and cuts into `folder`, which will be moved to `final`; return the skip log."""
    notes: list[str] = []
    writes = {OUTPUT: str(folder / "recipe")} if OUTPUT in recipe.prepare.parameters else {}
    for made in writes.values():  # a few recipes do not create it
        Path(made).mkdir()
    drops_bad_audio = config.loading.bad_audio == "drop"
    with checked_headers(tolerant=drops_bad_audio), named_lost_segments():
        made = _call_prepare(config, recipe, {**arguments, **writes}, notes)
    found = dict(split_cuts(made, notes))
    if drops_bad_audio:
        found = {split: drop_unreadable(cuts, split, notes) for split, cuts in found.items()}
        found = {split: cuts for split, cuts in found.items() if cuts}
    if sum(write_cuts(folder, split, cuts, final=final) for split, cuts in found.items()) == 0:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        details = "".join(f"\n  {note}" for note in notes[:10])
        raise LayoutError(f"corpus {config.name!r}: {recipe.prepare.name}({given}) found no recordings{details}")
    return notes


def _call_prepare(
    config: LhotseDatasetConfig, recipe: RecipeSignature, arguments: dict[str, Any], notes: list[str]
) -> Any:
    """Call `prepare` without empty lines, and without invalid ones if these are to be skipped; append to `notes`.

    Raise DataError, which names file and line of each invalid line.
    """
    roots = [full_path(path) for path in _path_arguments(recipe, arguments) if full_path(path).is_dir()]
    parts = arguments[PARTS] if isinstance(arguments.get(PARTS), list) else None
    found = [line for root in roots for line in find_invalid_lines(config.name, root, parts)]
    invalid = [line for line in found if not line.is_empty]
    if invalid and config.on_invalid == "error":
        raise InvalidLineError(config.name, invalid)
    skipped = found
    while True:
        warnings: list[str] = []
        try:
            with skip_lines(skipped):
                made = call_recipe(config.name, recipe, recipe.prepare, arguments, warnings)
        except InvalidLineError as error:
            if config.on_invalid == "error" or error.lines[0] in skipped:
                raise
            skipped = [*skipped, *error.lines]
        else:
            break
    invalid = [line for line in skipped if not line.is_empty]
    if invalid:
        shown = "; ".join(map(str, invalid[:3])) + ("; ..." if len(invalid) > 3 else "")
        notes.append(f"{len(invalid):,} invalid lines are skipped: {shown}")
    notes += warnings
    return made


def _path_arguments(recipe: RecipeSignature, arguments: Mapping[str, Any]) -> list[str]:
    """List the paths in a recipe's arguments, without the one that it writes to."""
    annotations = recipe.prepare.annotations
    named = (value for key, value in arguments.items() if "Path" in annotations.get(key, "") and key != OUTPUT)
    given = [path for value in named for path in (value if isinstance(value, list) else [value])]
    return [path for path in given if isinstance(path, str)]


def _fingerprint_inputs(recipe: RecipeSignature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprint the files named in a recipe's arguments, to detect changes."""
    paths = {path: full_path(path) for path in _path_arguments(recipe, arguments)}
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}
