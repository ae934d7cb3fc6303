"""Tokenizer of an imported run: the source's own, or one that the user names, without tokens that the network lacks."""

import json
from pathlib import Path
from typing import Any

from data_manager.errors import DataError
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.from_run import TOKENIZER_FOLDER
from data_manager.tokenizers.hugging_face import TOKENIZER_FILES, HuggingFaceTokenizer, hub_tokenizer
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.trial import try_tokenizer
from model.checkpoints.errors import PublishedError
from model.checkpoints.source import Source
from model.hub import is_folder_path
from model_factory.yaml_config.paths import expand_home


def find_tokenizer(name: str | None, source: Source) -> Tokenizer | None:
    """Load the tokenizer of a folder, of a run or of a name on the hub; without a name, the source's own, if it has one.

    Raises DataError for one that cannot be read.
    """
    if name is None:
        has_own = any((source.folder / file).is_file() for file in TOKENIZER_FILES)
        return _load(source.folder) if has_own else None
    folder = expand_home(name)
    if folder.is_dir():
        return _load(folder / TOKENIZER_FOLDER if (folder / TOKENIZER_FOLDER).is_dir() else folder)
    if folder.is_file() or is_folder_path(name):
        raise DataError(f"--tokenizer {name}: {'is a file; give its folder' if folder.exists() else 'no such folder'}")
    repository, _, revision = name.partition("@")
    return hub_tokenizer(repository, revision or None)


def _load(folder: Path) -> Tokenizer:
    try_tokenizer(folder)
    return load_tokenizer(folder)


def mask_token_of(tokenizer: Tokenizer | None) -> int | None:
    """Return the id of the mask token that a Hugging Face tokenizer names, None without one or without a tokenizer."""
    inner = getattr(tokenizer, "inner", None)
    found: int | None = getattr(inner, "mask_token_id", None)
    return found


def without_tokens_beyond(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """Return the tokenizer without added tokens of the ids from `size` on: the mask, which is no data token.

    Raises PublishedError if other tokens have such ids.
    """
    if tokenizer.vocab_size <= size:
        return tokenizer
    inner: Any = getattr(tokenizer, "inner", None)
    backend = getattr(inner, "backend_tokenizer", None)
    problem = f"the tokenizer has {tokenizer.vocab_size:,} tokens, and the network {size:,}"
    if backend is None:
        raise PublishedError(f"{problem}; give the tokenizer that it was trained with")
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < size]
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    roles = ("bos", "eos", "unk", "pad", "cls", "sep")
    kept = {
        f"{role}_token": getattr(inner, f"{role}_token")
        for role in roles
        if getattr(inner, f"{role}_token_id", None) is not None and getattr(inner, f"{role}_token_id") < size
    }
    shorter = HuggingFaceTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(content)), **kept)
    )
    if shorter.vocab_size > size:
        raise PublishedError(f"{problem}; give the tokenizer that it was trained with")
    return shorter
