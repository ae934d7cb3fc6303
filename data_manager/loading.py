"""Load data sets: text from a source is prepared or streamed, anything else is passed on."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import DatasetConfig
from data_manager.documents import Corpus, Listed, Notes, is_paired
from data_manager.errors import DataError
from data_manager.loaded import LoadedCache
from data_manager.registry import SOURCES
from data_manager.row_types import TokensConfig
from data_manager.rows.prepare import PreparedSplit, WithSource, empty_split, prepare_split
from data_manager.rows.shards import open_shards, shards_tokenizer
from data_manager.rows.stream import stream_rows
from data_manager.rows.token_stream import TokenStream
from data_manager.speech.types import SpeechConfig
from data_manager.text.arrow import ArrowRows
from data_manager.text.mixture import Mixture, load_mixtures, prepare_mixture
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.table_types import DEFAULT_COLUMN
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.factory import Texts, config_key, make_tokenizer, tokenizer_of
from model_factory.yaml_config.registry import import_on_call

if TYPE_CHECKING:
    from data_manager.rows.prepare import PreparedSplit

_load_speech = import_on_call("data_manager.speech.corpus:load_speech")
_transcripts = import_on_call("data_manager.speech.corpus:get_transcripts")

NO_STREAM_FIX = "leave streaming out: rows are prepared once, and read from disk as they are needed"
LOADED: "LoadedCache[dict[str, PreparedSplit]]" = LoadedCache(config_key, logging.getLogger(__name__))
"""Prepared splits of the text data sets that this process has loaded."""


def load(config: DatasetConfig) -> dict[str, Any]:
    """Load the splits of a data set, whose config has the type of its source; raise DataError."""
    if isinstance(config, TokensConfig) and config.shards is not None:
        return dict(open_shards(config))
    entry = SOURCES.get(config.source)
    found = _load_speech(config) if isinstance(config, SpeechConfig) else entry.load(config)
    if not isinstance(found, dict) or not found:
        raise DataError(
            f"data set {config.name!r}: source {config.source!r} must return a dict of splits; got {found!r}"
        )
    if not isinstance(config, TokensConfig):
        _check_no_text(config, found)
        return found
    texts = {split: as_text(value, f"{config.name} {split}") for split, value in found.items()}
    known = {split: text for split, text in texts.items() if text is not None}
    if not known:
        return found
    tokenizer = make_tokenizer(config, lambda: _concatenate_mixtures(known))
    made = {split: prepare_rows(config, split, text, tokenizer) for split, text in known.items()}
    LOADED.store(config, made, (note for part in made.values() for note in part.notes))
    return {split: made[split].rows if split in made else found[split] for split in found}


def load_with_source(config: DatasetConfig, split: str, rows: int | None) -> "PreparedSplit | None":
    """Return the rows of a split with their source columns, at least the first `rows`; None if the split has no text.

    See `data_manager.rows.source`. These rows are prepared apart from those of `load`, in the same order.
    """
    if not isinstance(config, TokensConfig) or config.shards is not None:
        return None
    text = as_text(SOURCES.get(config.source).load(config).get(split), f"{config.name} {split}")
    tokenizer = tokenizer_for(config)
    if text is None or tokenizer is None:
        return None
    return prepare_rows(config, split, text, tokenizer, WithSource(rows))


def open_streams(config: TokensConfig) -> dict[str, TokenStream]:
    """Return the streams of a data set's splits to train on; raise DataError for a mixture, and for rows of ids."""
    found = SOURCES.get(config.source).load(config)
    texts = {split: as_text(value, f"{config.name} {split}") for split, value in found.items()}
    corpora = {split: text for split, text in texts.items() if isinstance(text, Corpus)}
    if len(corpora) < len(found):
        what = "a mixture" if any(isinstance(text, Mixture) for text in texts.values()) else "rows of ids"
        raise DataError(f"data set {config.name!r}: a stream to train on has text, and this is {what}; {NO_STREAM_FIX}")
    tokenizer = make_tokenizer(config, lambda: _concatenate_mixtures(dict(corpora)))
    tokenizer.encode("")  # loads a deferred tokenizer once, before workers fork
    streams = {}
    for split, corpus in corpora.items():
        paired = is_paired(corpus)
        if paired is None:
            raise empty_split(config, split, Notes())
        streams[split] = TokenStream(config, split, list(corpus.shards()), tokenizer, paired)
    return streams


def _check_no_text(config: DatasetConfig, found: dict[str, Any]) -> None:
    """Raise DataError if a source returns text and its config type has no tokenizer."""
    for split, value in found.items():
        if not hasattr(value, "column_names") and as_text(value, split) is not None:
            raise DataError(
                f"data set {config.name!r}: source {config.source!r} returned text, so its config must be a subclass of "
                f"data_manager.row_types.TokensConfig; it is a {type(config).__name__}"
            )


def prepared_splits(config: DatasetConfig) -> "dict[str, PreparedSplit]":
    """Return the prepared splits of a text data set loaded in this process; empty for other data sets."""
    return LOADED.get(config) or {}


def text_splits(config: DatasetConfig) -> dict[str, Corpus] | None:
    """Return the corpora of a data set's splits; None if it has no text or is a mixture."""
    found = SOURCES.get(config.source).load(config)
    texts = {split: as_text(value, f"{config.name} {split}") for split, value in found.items()}
    corpora = {split: text for split, text in texts.items() if text is not None and not isinstance(text, Mixture)}
    return corpora if len(corpora) == len(found) else None


def mixture_splits(config: MixtureDatasetConfig) -> dict[str, Mixture]:
    """Return the splits of a mixture of data sets; raise DataError for a part without text."""
    return load_mixtures(config, text_splits)


def tokenizer_for(config: DatasetConfig) -> Tokenizer | None:
    """Return the tokenizer of a data set, or None; read the text if it has to be learned. Raise DataError."""
    if getattr(config, "tokenizer", None) is None:
        return None
    if isinstance(config, TokensConfig) and config.shards is not None:
        return shards_tokenizer(config)
    entry = SOURCES.get(config.source)
    if isinstance(config, SpeechConfig):
        return tokenizer_of(config, partial(_transcripts, config))
    if entry.texts is not None:
        texts = entry.texts
        return tokenizer_of(config, lambda: dict(texts(config)))

    def learn_from() -> Texts:
        found = {split: as_text(value, f"{config.name} {split}") for split, value in entry.load(config).items()}
        known = {split: text for split, text in found.items() if text is not None}
        if not known:
            raise DataError(
                f"data set {config.name!r} has no text to learn a tokenizer from; try tokenizer: {{type: bytes}}"
            )
        return _concatenate_mixtures(known)

    return tokenizer_of(config, learn_from)


def prepare_rows(
    config: TokensConfig,
    split: str,
    text: Corpus | Mixture,
    tokenizer: Tokenizer,
    source: "WithSource | None" = None,
) -> "PreparedSplit":
    """Return the rows of one split, from disk or as a stream; with source columns if they are requested."""
    if isinstance(text, Mixture):
        parts = partial(prepare_rows, config, tokenizer=tokenizer, source=source)
        return prepare_mixture(config, split, text, parts)  # type: ignore[arg-type]
    if config.streaming:
        return PreparedSplit(stream_rows(config, split, text, tokenizer, with_source=source is not None))
    return prepare_split(config, split, text, tokenizer, source)


def as_text(value: Any, label: str) -> Corpus | Mixture | None:
    """Convert what a source returned for a split into a corpus; None if it is not text: rows of ids, cuts of speech.

    Text is a corpus, texts or pairs in a list or from a function without arguments, or a `datasets.Dataset` with a
    column `text`.
    """
    if isinstance(value, Corpus | Mixture):
        return value
    columns = getattr(value, "column_names", None)
    if columns is not None:
        if DEFAULT_COLUMN not in columns or any(name.endswith("_ids") for name in columns):
            return None

        return ArrowRows(value, (f"{{{DEFAULT_COLUMN}}}",), label)
    if isinstance(value, list | tuple) or (callable(value) and not isinstance(value, Iterable)):
        return Listed(value, label)
    return None


def _concatenate_mixtures(texts: dict[str, Corpus | Mixture]) -> Texts:
    return {split: text.concatenate() if isinstance(text, Mixture) else text for split, text in texts.items()}
