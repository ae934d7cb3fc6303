"""Tokenizer `words`: one token for each word between spaces."""

from collections import Counter
from collections.abc import Iterable
from os import PathLike
from typing import Annotated

from pydantic import Field

from model_factory import StrictModel, read_vocabulary, register_tokenizer, write_vocabulary


class WordsConfig(StrictModel):
    """Keys of `tokenizer: {type: words, ...}`."""

    min_count: Annotated[int, Field(ge=1)] = 1
    """A rarer word of the training split becomes unk. [occurrences]"""


@register_tokenizer("words", config=WordsConfig)
class WordTokenizer:
    """Words have ids from 4; the special tokens are pad 0, bos 1, eos 2, unk 3."""

    pad_token_id, bos_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        self.ids = {word: index for index, word in enumerate(self.words, 4)}
        self.vocab_size = len(self.words) + 4

    @classmethod
    def from_texts(cls, settings: WordsConfig, texts: Iterable[str]) -> "WordTokenizer":
        """Learn the words of the training split."""
        counts = Counter(word for text in texts for word in text.split())
        return cls(sorted(word for word, count in counts.items() if count >= settings.min_count))

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "WordTokenizer":
        """Read the vocabulary that `save` wrote."""
        return cls(read_vocabulary(folder)["words"])

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words of a text."""
        return [self.ids.get(word, self.unk_token_id) for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words, separated by one space; skip pad, bos and eos."""
        return " ".join("?" if i == self.unk_token_id else self.words[i - 4] for i in map(int, ids) if i >= 3)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the vocabulary; `type` lets a run's folder name the tokenizer."""
        write_vocabulary(folder, {"type": "words", "words": self.words})
