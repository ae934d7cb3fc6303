"""Cached Hugging Face tokenizer: the import of transformers is deferred until the tokenizer is used.

Prepared data are not tokenised again, and the import would take a fifth of the time to the first batch.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.documents import HashFile
from data_manager.prepared_folder import discard, prepared_folder
from data_manager.text_files import find_path
from data_manager.tokenizer_factory import file_hashes, output_folder
from data_manager.tokenizer_registry import register_tokenizer
from yaml_config.json_text import from_json
from yaml_config.schema_version import stamped, unstamped

if TYPE_CHECKING:
    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer
    from data_manager.tokenizer_base import Flat

_FACTS_FILE = "facts.json"
_TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".spm")
"""Suffixes of tokenizer files; the folder may also hold the weights of a model."""


@register_tokenizer("hugging_face", config=TokenizerConfig)
class CachedTokenizer:
    """Tokenizer of `folder`, loaded at its first use; its special ids and hash come from the cache."""

    def __init__(
        self, folder: Path, *, vocab_size: int, pad: int, bos: int, eos: int, unk: int | None, identity: str
    ) -> None:
        self.folder, self.vocab_size, self._identity = folder, vocab_size, identity
        self.pad_token_id, self.bos_token_id, self.eos_token_id = pad, bos, eos
        self.unk_token_id: int | None = unk

    @staticmethod
    def from_settings(settings: TokenizerConfig, dataset: DatasetConfig) -> "HuggingFaceTokenizer | CachedTokenizer":
        """Open the tokenizer of `path` or of `name`, its name on the hub; raise DataError."""
        if settings.path is not None:
            folder = find_path(settings.path, dataset, "the tokenizer folder")
            return open_cached_tokenizer(folder, output_folder(dataset), file_hashes(dataset))
        from data_manager.hub import hub_tokenizer

        assert settings.name is not None
        return hub_tokenizer(settings.name, settings.revision)

    @staticmethod
    def load(folder: str | PathLike[str]) -> "HuggingFaceTokenizer":
        """Load a tokenizer's folder; raise DataError."""
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load(folder)

    @cached_property
    def loaded(self) -> "HuggingFaceTokenizer":
        """Load the wrapped tokenizer at its first use; raise DataError."""
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load(self.folder)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around them."""
        return self.loaded.encode(text)

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts."""
        return self.loaded.encode_many(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text without special tokens."""
        return self.loaded.decode(ids)

    def identity(self) -> str:
        """Return the cached hash of the tokenizer."""
        return self._identity

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the files of `save_pretrained`, and `vocabulary.json`."""
        self.loaded.save(folder)


def open_cached_tokenizer(
    folder: Path, cache_folder: Path, hash_file: HashFile
) -> "HuggingFaceTokenizer | CachedTokenizer":
    """Return the tokenizer of a folder, loaded now or cached in `cache_folder`; raise DataError."""
    from importlib.metadata import version  # 15 ms, which checking a file does not need

    made: list[HuggingFaceTokenizer] = []

    def make(aside: Path, final: Path) -> list[str]:
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        made.append(HuggingFaceTokenizer.load(folder))
        (aside / _FACTS_FILE).write_text(json.dumps(stamped(_facts(made[0]))), encoding="utf-8")
        return []

    files = sorted(path for path in folder.glob("*") if path.suffix in _TOKENIZER_SUFFIXES and path.is_file())
    inputs = {
        "files": {path.name: hash_file(path) for path in files},
        "libraries": [version(name) for name in ("transformers", "tokenizers")],
    }
    found = prepared_folder(cache_folder, inputs, make, prefix="tokenizer-")
    if made:
        return made[0]
    try:
        facts = unstamped(from_json((found.path / _FACTS_FILE).read_text(encoding="utf-8")), found.path)
        return CachedTokenizer(folder, **facts)
    except (OSError, ValueError, TypeError) as error:
        discard(found, error)
        return open_cached_tokenizer(folder, cache_folder, hash_file)


def _facts(tokenizer: "HuggingFaceTokenizer") -> dict[str, int | str | None]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad": tokenizer.pad_token_id,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "identity": tokenizer.identity(),
    }
