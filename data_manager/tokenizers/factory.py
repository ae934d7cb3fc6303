"""Create the tokenizer of a data set: an existing one, or one learned from its text and cached in output_dir."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.cache import FileHashes, discard, prepared_folder
from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.documents import Corpus, Joined, Listed, Notes
from data_manager.errors import DataError
from data_manager.paths import full_path
from data_manager.progress import progress
from data_manager.tokenizers.base import Tokenizer, read_vocabulary
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.registry import TOKENIZERS

Texts = Mapping[str, "Corpus | Iterable[str]"]

_VERSION = 2
"""Increase it when learning changes, so that tokenizers learned before are not reused."""
_cache: dict[str, Tokenizer] = {}


def make_tokenizer(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """Create the tokenizer of `config.tokenizer` and cache it in this process; `texts` is called only if needed.

    A tokenizer is learned from the split `train`, or from all splits if there is no `train`. Raise DataError.
    """
    settings: Any = config.tokenizer  # type: ignore[attr-defined]
    entry = TOKENIZERS.get(settings.type)
    tokenizer: Tokenizer
    if entry.learns_from_text:
        tokenizer = _learn_or_load(config, settings, _training_corpus(texts()))
    else:
        tokenizer = entry.tokenizer.from_settings(settings, config)
    _cache[config_key(config)] = tokenizer
    return tokenizer


def tokenizer_of(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """Return the tokenizer that was created for `config` before, or create it."""
    made = _cache.get(config_key(config))
    return made if made is not None else make_tokenizer(config, texts)


def output_folder(config: DatasetConfig) -> Path:
    """Return the folder of the prepared data of a data set."""
    return full_path(config.global_config.output_dir) / config.name


def file_hashes(config: DatasetConfig) -> FileHashes:
    """Return the cache of file hashes in the folder of a data set."""
    return FileHashes(output_folder(config) / ".hashes")


def config_key(config: DatasetConfig) -> str:
    """Serialise a config as a cache key, including the parts of a mixture, which `model_dump` excludes."""
    return "\n".join(part.model_dump_json() for part in (config, *getattr(config, "entries", ())))


def _training_corpus(texts: Texts) -> Corpus:
    chosen = {"train": texts["train"]} if "train" in texts else texts
    corpora = [found if isinstance(found, Corpus) else Listed(found, split) for split, found in chosen.items()]
    return corpora[0] if len(corpora) == 1 else Joined(tuple(corpora))


def _learn_or_load(config: DatasetConfig, settings: Any, corpus: Corpus) -> Tokenizer:
    """Learn the tokenizer from a text, or load the one that was learned from the same text before."""
    made: list[Tokenizer] = []

    def make(folder: Path, final: Path) -> list[str]:
        made.append(_learn(settings, corpus, f"{config.name}: tokenizer"))
        made[0].save(folder)
        _check_saved(folder, settings.type)
        return []

    inputs = {"version": _VERSION, **_settings_to_hash(settings), "text": corpus.inputs(file_hashes(config))}
    folder = prepared_folder(output_folder(config), inputs, make, prefix="tokenizer-")
    if made:
        return made[0]
    try:
        return load_tokenizer(folder.path)
    except DataError as error:
        discard(folder, error)
        return load_tokenizer(prepared_folder(output_folder(config), inputs, make, prefix="tokenizer-").path)


def _settings_to_hash(settings: Any) -> dict[str, Any]:
    """Return the settings that a learned tokenizer depends on, of a custom kind all; and the version of its class."""
    version = getattr(TOKENIZERS.get(settings.type).tokenizer, "version", 1)
    if isinstance(settings, TokenizerConfig):
        own = {"type": settings.type, "vocab_size": settings.vocab_size}
        return own if version == 1 else {**own, "class_version": version}
    return {"settings": settings.model_dump(mode="json"), "class_version": version}


def _check_saved(folder: Path, kind: str) -> None:
    """Raise DataError if `save` did not write the `vocabulary.json` by which `load_tokenizer` finds the kind."""
    try:
        saved = read_vocabulary(folder)["type"]
    except (OSError, ValueError, KeyError, TypeError):
        saved = None
    if saved != kind:
        raise DataError(
            f"tokenizer type {kind!r}: its save(folder) must call "
            f'data_manager.tokenizers.base.write_vocabulary(folder, {{"type": "{kind}"}})'
        )


def _learn(settings: Any, corpus: Corpus, label: str) -> Tokenizer:
    texts = iter(progress(_texts(corpus), label))
    found: Tokenizer = TOKENIZERS.get(settings.type).tokenizer.from_texts(settings, texts)
    return found


def _texts(corpus: Corpus) -> Iterator[str]:
    for piece in corpus.read(Notes()):
        yield from piece.texts
