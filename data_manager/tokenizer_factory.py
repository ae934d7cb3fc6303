"""The tokenizer of a data set, made once a process and again whenever the data set is loaded again."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.text_files import find_path
from data_manager.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer

if TYPE_CHECKING:
    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

Texts = Mapping[str, Sequence[str]]

_made: dict[str, Tokenizer] = {}


def make_tokenizer(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """Make the tokenizer that `config.tokenizer` describes and remember it; `texts` is called only if it is needed.

    Characters are those of the split `train`, or of all splits where there is none of that name. Raises DataError.
    """
    settings: TokenizerConfig = config.tokenizer  # type: ignore[attr-defined]
    tokenizer: Tokenizer
    if settings.type == "bytes":
        tokenizer = ByteTokenizer()
    elif settings.type == "hugging_face":
        tokenizer = _hugging_face(config, settings)
    else:
        found = texts()
        tokenizer = CharacterTokenizer.of(found["train"] if "train" in found else chain.from_iterable(found.values()))
    _made[config.model_dump_json()] = tokenizer
    return tokenizer


def tokenizer_of(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """The tokenizer made for `config` before, or a new one."""
    made = _made.get(config.model_dump_json())
    return made if made is not None else make_tokenizer(config, texts)


def _hugging_face(config: DatasetConfig, settings: TokenizerConfig) -> "HuggingFaceTokenizer":
    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

    assert settings.path is not None
    return HuggingFaceTokenizer.load(find_path(settings.path, config, "the tokenizer folder"))
