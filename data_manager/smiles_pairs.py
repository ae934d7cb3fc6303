"""SMILES Pair Encoding (Li and Fourches 2021, arXiv 2012.11524): frequent neighbouring tokens are merged into one.

This is byte-pair encoding over atoms, bonds, rings and branches in place of bytes, learned from molecules. A benzene ring
is then one token, and rows are three to five times shorter.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from os import PathLike
from typing import Any

from data_manager.dataset_types import TokenizerConfig
from data_manager.smiles_tokenizer import SmilesTokenizer
from data_manager.tokenizer_base import read_vocabulary, token_list, write_vocabulary
from data_manager.tokenizer_registry import register_tokenizer

Pair = tuple[int, int]
_FIRST_CODE_POINT = 0xF0000
"""First code point (private use) of the characters that represent ids in the package tokenizers."""


@register_tokenizer("smiles", config=TokenizerConfig)
class SmilesPairTokenizer(SmilesTokenizer):
    """`SmilesTokenizer` with merges: `pairs` of ids, applied in their order; each pair is a new id."""

    def __init__(self, tokens: Iterable[str], pairs: Iterable[Sequence[int]]) -> None:
        """Raise ValueError for a duplicate token, and for a pair with an id that is not defined before it."""
        super().__init__(tokens)
        self.base = list(self.tokens)
        self.pairs: list[Pair] = []
        for left, right in pairs:
            if not (4 <= left < self.vocab_size and 4 <= right < self.vocab_size):
                raise ValueError(f"the pair {left}, {right} has an id that is not defined before it")
            self.pairs.append((left, right))
            self.tokens.append(self.tokens[left - 4] + self.tokens[right - 4])
            self.vocab_size += 1

    @classmethod
    def learn(cls, texts: Iterable[str], vocab_size: int) -> "SmilesPairTokenizer":
        """Learn a tokenizer of at most `vocab_size` tokens; all single tokens are kept, even if they are more."""
        from tokenizers import Tokenizer, models, trainers

        texts = list(texts)
        single = SmilesTokenizer.of(texts)
        inner = Tokenizer(models.BPE())
        alphabet = [chr(_FIRST_CODE_POINT + index) for index in range(3, single.vocab_size)]
        size = max(vocab_size - 3, len(alphabet))
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        inner.train_from_iterator((_ids_to_characters(single.encode(text)) for text in texts), trainer)
        ids = {letter: ord(letter) - _FIRST_CODE_POINT for letter in alphabet}
        pairs: list[Pair] = []
        for left, right in json.loads(inner.to_str())["model"]["merges"]:
            if left + right not in ids and 3 not in (ids[left], ids[right]):
                ids[left + right] = single.vocab_size + len(pairs)
                pairs.append((ids[left], ids[right]))
        return cls(single.tokens, pairs)

    @classmethod
    def from_texts(cls, settings: TokenizerConfig, texts: Iterable[str]) -> SmilesTokenizer:
        """Learn from the training split; without vocab_size no tokens are joined."""
        return SmilesTokenizer.of(texts) if settings.vocab_size is None else cls.learn(texts, settings.vocab_size)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> SmilesTokenizer:
        """Read `vocabulary.json`, with or without pairs; raise ValueError, KeyError or TypeError if it is invalid."""
        content = read_vocabulary(folder)
        tokens = token_list(content["tokens"])
        return cls(tokens, content["pairs"]) if "pairs" in content else SmilesTokenizer(tokens)

    @cached_property
    def _bpe(self) -> Any:
        """BPE model of the package tokenizers with the same merges and ids."""
        from tokenizers import Tokenizer, models

        spelt = [chr(_FIRST_CODE_POINT + index) for index in range(4 + len(self.base))]
        vocabulary = {letter: index for index, letter in enumerate(spelt)}
        merges = []
        for left, right in self.pairs:
            merges.append((spelt[left], spelt[right]))
            vocabulary[spelt[left] + spelt[right]] = len(spelt)
            spelt.append(spelt[left] + spelt[right])
        return Tokenizer(models.BPE(vocab=vocabulary, merges=merges))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the merged tokens; a character outside the SMILES alphabet becomes unk."""
        ids: list[int] = self._bpe.encode(_ids_to_characters(super().encode(text)), add_special_tokens=False).ids
        return ids

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "smiles", "tokens": self.base, "pairs": self.pairs})

    def identity(self) -> str:
        """Return a hash of the vocabulary and the merges."""
        return f"{super().identity()} {sha256(repr(self.pairs).encode()).hexdigest()}"


def _ids_to_characters(ids: Sequence[int]) -> str:
    return "".join(chr(_FIRST_CODE_POINT + index) for index in ids)
