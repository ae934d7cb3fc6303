"""The tokenizer of a data set: one that is there, or one learnt from its text and kept in output_dir."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.content_hash import FileHashes
from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.documents import Corpus, Joined, Listed, Notes
from data_manager.errors import DataError
from data_manager.prepared_folder import discard, prepared_folder
from data_manager.text_files import full_path
from data_manager.tokenizer_base import Tokenizer, read_vocabulary
from data_manager.tokenizer_load import load_tokenizer
from data_manager.tokenizer_registry import TOKENIZERS

Texts = Mapping[str, "Corpus | Iterable[str]"]

_VERSION = 1
"""Changed with what is learnt from a text, so that what was learnt before is not taken for it."""
_made: dict[str, Tokenizer] = {}


def make_tokenizer(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """Make the tokenizer that `config.tokenizer` describes and remember it; `texts` is called only if it is needed.

    What is learnt comes from the split `train`, or from all splits where there is none of that name. Raises DataError.
    """
    settings: Any = config.tokenizer  # type: ignore[attr-defined]
    entry = TOKENIZERS.get(settings.type)
    tokenizer: Tokenizer
    if entry.learns_from_text:
        tokenizer = _learnt(config, settings, _training_corpus(texts()))
    else:
        tokenizer = entry.tokenizer.from_settings(settings, config)
    _made[config_key(config)] = tokenizer
    return tokenizer


def tokenizer_of(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """The tokenizer made for `config` before, or a new one."""
    made = _made.get(config_key(config))
    return made if made is not None else make_tokenizer(config, texts)


def output_folder(config: DatasetConfig) -> Path:
    """Where what is prepared for a data set is kept."""
    return full_path(config.global_config.output_dir) / config.name


def file_hashes(config: DatasetConfig) -> FileHashes:
    """The hashes of files that this data set's folder remembers."""
    return FileHashes(output_folder(config) / ".hashes")


def config_key(config: DatasetConfig) -> str:
    """What a config says, the parts of a mixture too, which are not dumped with it."""
    return "\n".join(part.model_dump_json() for part in (config, *getattr(config, "entries", ())))


def _training_corpus(texts: Texts) -> Corpus:
    chosen = {"train": texts["train"]} if "train" in texts else texts
    corpora = [found if isinstance(found, Corpus) else Listed(found, split) for split, found in chosen.items()]
    return corpora[0] if len(corpora) == 1 else Joined(tuple(corpora))


def _learnt(config: DatasetConfig, settings: Any, corpus: Corpus) -> Tokenizer:
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
    """Return the settings that a learned tokenizer depends on; of a custom kind all, and the version of its class."""
    if isinstance(settings, TokenizerConfig):
        return {"type": settings.type, "vocab_size": settings.vocab_size}
    version = getattr(TOKENIZERS.get(settings.type).tokenizer, "version", 1)
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
            f'data_manager.tokenizer_base.write_vocabulary(folder, {{"type": "{kind}"}})'
        )


def _learn(settings: Any, corpus: Corpus, label: str) -> Tokenizer:
    from data_manager.progress import progress

    texts = iter(progress(_texts(corpus), label))
    found: Tokenizer = TOKENIZERS.get(settings.type).tokenizer.from_texts(settings, texts)
    return found


def _texts(corpus: Corpus) -> Iterator[str]:
    for piece in corpus.read(Notes()):
        yield from piece.texts
