"""Hugging Face tokenizer from a folder or the hub, with the special tokens that batches need."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.cache import discard, prepared_folder
from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.documents import HashFile
from data_manager.errors import DataError
from data_manager.paths import find_path
from data_manager.text.hub import cached_files, from_hub, reason_offline
from data_manager.tokenizers.base import (
    VOCABULARY_FILE,
    byte_positions,
    encode_with_estimated_ends,
    flat,
    read_vocabulary,
    spread_equal,
    write_vocabulary,
)
from data_manager.tokenizers.factory import file_hashes, output_folder
from data_manager.tokenizers.registry import register_tokenizer
from data_manager.tokenizers.trial import try_tokenizer
from model_factory.yaml_config.schema_version import add_version, parse_json, remove_version

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Flat, FlatWithEnds


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)


class HuggingFaceTokenizer:
    """Wrapper of a `transformers` tokenizer.

    A missing bos or eos token is replaced by `cls` or `sep`; if these are missing too, `<bos>` or `<eos>` is added. A
    missing pad token is replaced by eos, as the mask distinguishes the two.
    """

    def __init__(self, tokenizer: Any, parse_special_tokens: bool = False, label: str = "the tokenizer") -> None:
        """Wrap `tokenizer`; raise ValueError if two of its tokens have one id.

        Arguments:
            parse_special_tokens: read strings such as `<|endoftext|>` in a text as special tokens, not as text.
            label: name of the tokenizer in messages.
        """
        self.inner, self.parse_special_tokens, self.label = tokenizer, parse_special_tokens, label
        self.bos_token_id = _special_token_id(tokenizer, "bos", tokenizer.cls_token, "<bos>")
        self.eos_token_id = _special_token_id(tokenizer, "eos", tokenizer.sep_token, "<eos>")
        self.pad_token_id = _special_token_id(tokenizer, "pad", tokenizer.eos_token, "<pad>")
        self.unk_token_id: int | None = tokenizer.unk_token_id
        ids = sorted(tokenizer.get_vocab().values())
        if double := next((index for index, after in pairwise(ids) if index == after), None):
            raise ValueError(f"two tokens have the id {double}")
        self.vocab_size = ids[-1] + 1  # ids may have gaps
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            # tokenizer.json may enable both
            self._fast.no_truncation()
            self._fast.no_padding()

    @classmethod
    def load(cls, folder: str | PathLike[str], parse_special_tokens: bool | None = None) -> "HuggingFaceTokenizer":
        """Load tokenizer.json, vocab.json with merges.txt, vocab.txt or a SentencePiece model; raise DataError.

        Arguments:
            parse_special_tokens: as in `__init__`; None takes it from the `vocabulary.json` that `save` wrote.
        """
        path = Path(folder)
        if not path.is_dir():
            kind = "is a file; give its folder" if path.exists() else "does not exist"
            raise DataError(f"tokenizer folder {path} {kind}")
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise DataError(f"tokenizer folder {path} contains none of {', '.join(TOKENIZER_FILES)}")
        try:
            parse = _saved_setting(path) if parse_special_tokens is None else parse_special_tokens
            return cls(_load_transformers(path), parse, f"tokenizer folder {path}")
        except DataError:
            raise
        except Exception as error:  # transformers raises many kinds of errors for a broken file
            raise DataError(f"tokenizer folder {path} cannot be read: {type(error).__name__}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text of any length, without special tokens around them; raise DataError."""
        return self._encode([text])[0]

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts, on all cores unless TOKENIZERS_PARALLELISM is false; raise DataError."""
        return flat(self._encode(texts))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several texts, and write special tokens in them as text unless `parse_special_tokens` is set."""
        try:
            pairs = zip(texts, self._encode_by_library(texts), strict=True)
            return [[part for parts in self._without_specials(text, ids) for part in parts] for text, ids in pairs]
        except (DataError, KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's PanicException is no Exception
            raise DataError(self._describe(error)) from error

    def _encode_by_library(self, texts: Sequence[str]) -> list[list[int]]:
        split = not self.parse_special_tokens
        if self._fast is None:
            settings = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
            return [self.inner.encode(text, **settings) for text in texts]
        self._fast.encode_special_tokens = split  # a pickled tokenizer loses it
        return [found.ids for found in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _without_specials(self, text: str, ids: list[int]) -> list[Sequence[int]]:
        """Return the ids in place of each token: special ones that the vocabulary matched, as Unigram does, are spelt.

        The unknown token stays, except where the text holds its name.
        """
        if self.parse_special_tokens:
            return [(index,) for index in ids]
        unknown = self.unk_token_id
        spelled: set[int] = set()
        if not self.special_ids.isdisjoint(ids):
            spelled = {n for n, index in enumerate(ids) if index in self.special_ids}
        if unknown is not None and self._fast is not None and unknown in ids and self.inner.unk_token in text:
            offsets = self._fast.encode(text, add_special_tokens=False).offsets
            spelled |= {n for n, (start, end) in enumerate(offsets) if text[start:end] == self.inner.unk_token}
        return [self._spell(index) if n in spelled else (index,) for n, index in enumerate(ids)]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that no text has, all special tokens but the unknown one."""
        added = {index for index, token in self.inner.added_tokens_decoder.items() if token.special}
        return frozenset((added | set(self.inner.all_special_ids) | self._ends) - {self.unk_token_id})

    @property
    def _ends(self) -> set[Any]:
        return {self.pad_token_id, self.bos_token_id, self.eos_token_id}

    def _spell(self, special: int) -> list[int]:
        """Return the ids of a special token's characters; the fewest unknown ones of all ways to cut it in two."""
        name, unknown = self.inner.convert_ids_to_tokens(special), self.unk_token_id
        ways = []
        for cut in range(1, len(name)) if self._fast is not None else ():
            found = [self._fast.model.tokenize(part) for part in (name[:cut], name[cut:])]
            ids = [token.id for part in found for token in part]
            if self.special_ids.isdisjoint(ids):
                ways.append((sum(index == unknown for index in ids), len(ids), ids))
        best = min(ways, default=None)
        if best is not None and best[0] < best[1]:
            return best[2]
        if unknown is None or unknown in self._ends:
            raise DataError(
                f"{self.label} has no tokens for the text {name!r}; parse_special_tokens: true reads it as a special token"
            )
        return [unknown]

    def _describe(self, error: BaseException) -> str:
        """Return the message about an error of the library."""
        words = " ".join(str(error).split())
        if "unk" in words.lower():  # "WordLevel error: Missing [UNK] token from the vocabulary"
            return f"{self.label}: a text has a word outside the vocabulary, which lacks its unknown token; add it ({words})"
        return f"{self.label} fails at a text: {type(error).__name__}: {words}"

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts; tokens end where the tokenizer's offsets say.

        Text that belongs to no token, such as white space that a WordPiece drops, is counted with the token after it.
        """
        import numpy as np

        if self._fast is None:
            return encode_with_estimated_ends(self, texts)
        self._fast.encode_special_tokens = not self.parse_special_tokens
        found = self._fast.encode_batch(list(texts), add_special_tokens=False)
        parts = [self._without_specials(text, one.ids) for text, one in zip(texts, found, strict=True)]
        ids, lengths = flat([[index for part in row for index in part] for row in parts])
        ends, begin = [np.empty(0, np.int64)], 0
        for text, one, row in zip(texts, found, parts, strict=True):
            positions = byte_positions(text)
            last = np.array(  # in characters
                [end for (_, end), part in zip(one.offsets, row, strict=True) for _ in part], dtype=np.int64
            )
            ends.append(begin + spread_equal(positions[np.maximum.accumulate(last)]))
            begin += int(positions[-1])
        return ids, lengths, np.concatenate(ends)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; skip special tokens and ids beyond the vocabulary."""
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        text: str = self.inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def identity(self) -> str:
        """Return a hash of the vocabulary and the special tokens."""
        content = self._fast.to_str() if self._fast is not None else repr(sorted(self.inner.get_vocab().items()))
        specials = self.pad_token_id, self.bos_token_id, self.eos_token_id
        parsed = " parse_special_tokens" if self.parse_special_tokens else ""
        return f"hugging_face {sha256(content.encode()).hexdigest()} {specials}{parsed}"

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the files of `save_pretrained`, and `vocabulary.json`; raise OSError on a full disk."""
        try:
            self.inner.save_pretrained(str(folder))
        except Exception as error:  # the tokenizers library raises a plain Exception
            if isinstance(error, OSError) or "os error" not in str(error):
                raise
            raise OSError(f"{folder}: {error}") from error
        settings = {_SETTING: True} if self.parse_special_tokens else {}
        write_vocabulary(folder, {"type": "hugging_face", **settings})


_SETTING = "parse_special_tokens"


def _saved_setting(folder: Path) -> bool:
    """Return the `parse_special_tokens` that `save` wrote; False for a folder of another program."""
    return (folder / VOCABULARY_FILE).is_file() and read_vocabulary(folder).get(_SETTING) is True


def _load_transformers(path: Path) -> Any:
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

    if (path / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    if (path / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file():
        if not (path / "merges.txt").is_file():
            raise DataError(f"tokenizer folder {path} has vocab.json but lacks its merges.txt")
        return GPT2TokenizerFast.from_pretrained(str(path), local_files_only=True)
    return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


def _special_token_id(tokenizer: Any, role: str, substitute: str | None, new: str) -> int:
    """Return the id of a special token; if it is missing, set it to `substitute` or add `new`."""
    if getattr(tokenizer, f"{role}_token") is None:
        tokenizer.add_special_tokens({f"{role}_token": substitute or new})
    found: int = getattr(tokenizer, f"{role}_token_id")
    return found


# Cached Hugging Face tokenizer: the import of transformers is deferred until the tokenizer is used.


_FACTS_FILE = "facts.json"
_FACTS_VERSION = 2
"""Increase it when the facts or the trial of a tokenizer change."""


_TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".spm")
"""Suffixes of tokenizer files; the folder may also hold the weights of a model."""


@register_tokenizer("hugging_face", config=TokenizerConfig)
class CachedTokenizer:
    """Tokenizer of `folder`, loaded at its first use; its special ids and hash come from the cache."""

    def __init__(
        self,
        folder: Path,
        *,
        vocab_size: int,
        pad: int,
        bos: int,
        eos: int,
        unk: int | None,
        identity: str,
        parse_special_tokens: bool,
    ) -> None:
        self.folder, self.vocab_size, self._identity = folder, vocab_size, identity
        self.parse_special_tokens = parse_special_tokens
        self.pad_token_id, self.bos_token_id, self.eos_token_id = pad, bos, eos
        self.unk_token_id: int | None = unk

    @staticmethod
    def from_settings(settings: TokenizerConfig, dataset: DatasetConfig) -> "HuggingFaceTokenizer | CachedTokenizer":
        """Open the tokenizer of `path` or of `name`, its name on the hub; raise DataError."""
        if settings.path is not None:
            folder = find_path(settings.path, dataset, "the tokenizer folder")
            parse = settings.parse_special_tokens
            return open_cached_tokenizer(folder, output_folder(dataset), file_hashes(dataset), parse)
        assert settings.name is not None
        return hub_tokenizer(settings.name, settings.revision, settings.parse_special_tokens)

    @staticmethod
    def load(folder: str | PathLike[str]) -> "HuggingFaceTokenizer":
        """Load a tokenizer's folder; raise DataError."""
        return HuggingFaceTokenizer.load(folder)

    @cached_property
    def loaded(self) -> "HuggingFaceTokenizer":
        """Load the wrapped tokenizer at its first use; raise DataError."""
        return HuggingFaceTokenizer.load(self.folder, self.parse_special_tokens)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around them."""
        return self.loaded.encode(text)

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts."""
        return self.loaded.encode_many(texts)

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts, and find where each token ends."""
        return self.loaded.encode_with_ends(texts)

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
    folder: Path, cache_folder: Path, hash_file: HashFile, parse_special_tokens: bool = False
) -> "HuggingFaceTokenizer | CachedTokenizer":
    """Return the tokenizer of a folder, loaded now or cached in `cache_folder`; raise DataError."""
    from importlib.metadata import version  # 15 ms, which checking a file does not need

    made: list[HuggingFaceTokenizer] = []

    def make(aside: Path, final: Path) -> list[str]:
        try_tokenizer(folder)
        made.append(HuggingFaceTokenizer.load(folder, parse_special_tokens))
        (aside / _FACTS_FILE).write_text(json.dumps(add_version(_facts(made[0]))), encoding="utf-8")
        return []

    files = sorted(path for path in folder.glob("*") if path.suffix in _TOKENIZER_SUFFIXES and path.is_file())
    inputs = {
        "version": _FACTS_VERSION,
        _SETTING: parse_special_tokens,
        "files": {path.name: hash_file(path) for path in files},
        "libraries": [version(name) for name in ("transformers", "tokenizers")],
    }
    found = prepared_folder(cache_folder, inputs, make, prefix="tokenizer-")
    if made:
        return made[0]
    try:
        facts = remove_version(parse_json((found.path / _FACTS_FILE).read_text(encoding="utf-8")), found.path)
        return CachedTokenizer(folder, **facts)
    except (OSError, ValueError, TypeError) as error:
        discard(found, error)
        return open_cached_tokenizer(folder, cache_folder, hash_file, parse_special_tokens)


def _facts(tokenizer: "HuggingFaceTokenizer") -> dict[str, int | str | None]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "pad": tokenizer.pad_token_id,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "identity": tokenizer.identity(),
        _SETTING: tokenizer.parse_special_tokens,
    }


def hub_tokenizer(name: str, revision: str | None, parse_special_tokens: bool = False) -> HuggingFaceTokenizer:
    """Load a tokenizer by its name on the hub; raise DataError, offline within two seconds."""
    if Path(name).exists():
        raise DataError(
            f"tokenizer {name!r}: a folder of that name exists, too; to use the folder, write path: ./{name}"
        )

    def get() -> HuggingFaceTokenizer:
        from transformers import AutoTokenizer

        offline = reason_offline() is not None
        inner = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", local_files_only=offline, trust_remote_code=False
        )
        return HuggingFaceTokenizer(inner, parse_special_tokens, f"tokenizer {name!r}")

    remedy = (
        "Save it on a machine with a network (AutoTokenizer.from_pretrained(...).save_pretrained(folder)) and give path"
    )
    return from_hub(f"tokenizer {name!r}", get, f"{remedy}.", cached_files(f"models--{name.replace('/', '--')}"))
