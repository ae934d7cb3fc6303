"""A Hugging Face tokenizer in a folder that has been read before: importing transformers waits until it is used.

On data that are prepared nothing is tokenised, and the import would take a fifth of the time to the first batch.
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

_FACTS = "facts.json"
_ENDINGS = (".json", ".txt", ".model", ".tiktoken", ".spm")
"""Of the files of a tokenizer; the weights of its model may lie beside them."""


@register_tokenizer("hugging_face", config=TokenizerConfig)
class RememberedTokenizer:
    """The tokenizer of `folder`; its numbers and its identity were written down when it was read the first time."""

    def __init__(
        self, folder: Path, *, vocab_size: int, pad: int, bos: int, eos: int, unk: int | None, identity: str
    ) -> None:
        self.folder, self.vocab_size, self._identity = folder, vocab_size, identity
        self.pad_token_id, self.bos_token_id, self.eos_token_id = pad, bos, eos
        self.unk_token_id: int | None = unk

    @staticmethod
    def from_settings(
        settings: TokenizerConfig, dataset: DatasetConfig
    ) -> "HuggingFaceTokenizer | RememberedTokenizer":
        """Open the tokenizer of `path` or of `name`, its name on the hub; raise DataError."""
        if settings.path is not None:
            folder = find_path(settings.path, dataset, "the tokenizer folder")
            return remembered_tokenizer(folder, output_folder(dataset), file_hashes(dataset))
        from data_manager.hub import hub_tokenizer

        assert settings.name is not None
        return hub_tokenizer(settings.name, settings.revision)

    @staticmethod
    def load(folder: str | PathLike[str]) -> "HuggingFaceTokenizer":
        """Read a tokenizer's folder; raise DataError."""
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load(folder)

    @cached_property
    def whole(self) -> "HuggingFaceTokenizer":
        """The tokenizer itself, read at the first use; raises DataError."""
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load(self.folder)

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens around them."""
        return self.whole.encode(text)

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Ids of several texts."""
        return self.whole.encode_many(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text without special tokens."""
        return self.whole.decode(ids)

    def identity(self) -> str:
        """Changes whenever ids do."""
        return self._identity

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer's own files, and `vocabulary.json` beside them."""
        self.whole.save(folder)


def remembered_tokenizer(
    folder: Path, kept_in: Path, hash_file: HashFile
) -> "HuggingFaceTokenizer | RememberedTokenizer":
    """The tokenizer of a folder, read now or known by facts in `kept_in`; raises DataError."""
    from importlib.metadata import version  # 15 ms, which checking a file does not need

    made: list[HuggingFaceTokenizer] = []

    def make(aside: Path, final: Path) -> list[str]:
        from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

        made.append(HuggingFaceTokenizer.load(folder))
        (aside / _FACTS).write_text(json.dumps(stamped(_facts(made[0]))), encoding="utf-8")
        return []

    files = sorted(path for path in folder.glob("*") if path.suffix in _ENDINGS and path.is_file())
    inputs = {
        "files": {path.name: hash_file(path) for path in files},
        "libraries": [version(name) for name in ("transformers", "tokenizers")],
    }
    found = prepared_folder(kept_in, inputs, make, prefix="tokenizer-")
    if made:
        return made[0]
    try:
        facts = unstamped(from_json((found.path / _FACTS).read_text(encoding="utf-8")), found.path)
        return RememberedTokenizer(folder, **facts)
    except (OSError, ValueError, TypeError) as error:
        discard(found, error)
        return remembered_tokenizer(folder, kept_in, hash_file)


def _facts(tokenizer: "HuggingFaceTokenizer") -> dict[str, int | str | None]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad": tokenizer.pad_token_id,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "identity": tokenizer.identity(),
    }
