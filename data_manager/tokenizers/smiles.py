"""SMILES tokenizer: atoms, bonds, rings and branches (OpenSMILES grammar, tokens as in Schwaller et al. 2019)."""

import json
import re
import string
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from os import PathLike
from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import TokenizerConfig
from data_manager.tokenizers.base import (
    REPLACEMENT,
    byte_positions,
    flat,
    read_vocabulary,
    token_list,
    write_vocabulary,
)
from data_manager.tokenizers.registry import register_tokenizer

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Flat, FlatWithEnds


TOKEN = re.compile(
    r"""
      \[[^\[\]]+\]            # an atom in brackets: isotope, chirality, hydrogens, charge
    | Br | Cl                 # the two-letter elements of the organic subset
    | [BCNOPSFI] | [bcnops]   # the others, and the aromatic ones
    | %\([0-9]+\) | %[0-9]{2} | [0-9]   # ring closures
    | [()]                    # branches
    | -> | <-                 # dative bonds, as RDKit writes them
    | >> | >                  # reactions
    | [-=\#$:/\\~.*@?+]       # bonds, parts, wildcards
    """,
    re.VERBOSE,
)


_BASE_TOKENS = sorted(
    {*"BCNOPSFI", *"bcnops", "Br", "Cl", *string.digits, *"()[]", *"-=#$:/\\~.*@?+%>", *string.ascii_letters}
)
"""Base vocabulary: the organic subset, and every character that an atom in brackets may contain."""


def split_smiles(text: str) -> list[str]:
    """Split a SMILES into tokens; text outside the grammar becomes single-character tokens."""
    found: list[str] = []
    end = 0
    for match in TOKEN.finditer(text):
        found += text[end : match.start()]
        found.append(match[0])
        end = match.end()
    return [*found, *text[end:]]


class SmilesTokenizer:
    """Tokenizer of atoms, bonds, ring closures and branches, ids from 4; special tokens pad 0, bos 1, eos 2, unk 3.

    An atom in brackets that is not in the vocabulary is encoded character by character, so encoding stays lossless.
    """

    version = 2
    """Increase it when learning changes, so that tokenizers learned before are not reused."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    unk_token_id: int | None = 3

    def __init__(self, tokens: Iterable[str]) -> None:
        """Assign ids from 4 in the order of `tokens`; raise ValueError for a duplicate."""
        self.tokens = list(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens, 4)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("tokens must be unique")
        self.vocab_size = len(self.tokens) + 4

    @classmethod
    def of(cls, texts: Iterable[str]) -> "SmilesTokenizer":
        """Return the tokenizer of the organic subset and of every atom in brackets in `texts`."""
        seen: set[str] = set()
        for text in texts:
            seen.update(TOKEN.findall(text))
        return cls([*_BASE_TOKENS, *sorted(seen - set(_BASE_TOKENS))])

    def encode(self, text: str) -> list[int]:
        """Return the ids of the tokens; a character outside the SMILES alphabet becomes unk."""
        ids: list[int] = []
        find = self._ids.get
        for token in split_smiles(text):
            known = find(token)
            ids += [known] if known is not None else [find(character, 3) for character in token]
        return ids

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts."""
        return flat([self.encode(text) for text in texts])

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts; a token is as long as its text, and an unknown one is a character."""
        import numpy as np

        ids, lengths = self.encode_many(texts)
        sizes = np.array([1, 1, 1, 1, *map(len, self.tokens)])
        return ids, lengths, byte_positions("".join(texts))[np.cumsum(sizes[ids])]

    def decode(self, ids: Iterable[int]) -> str:
        """Join the tokens; an unknown id becomes U+FFFD."""
        known = range(4, self.vocab_size)
        return "".join(self.tokens[i - 4] if i in known else REPLACEMENT for i in map(int, ids) if i not in (0, 1, 2))

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "smiles", "tokens": self.tokens})

    def identity(self) -> str:
        """Return a hash of the vocabulary."""
        return f"smiles {sha256(' '.join(self.tokens).encode()).hexdigest()}"


# SMILES Pair Encoding (Li and Fourches 2021, arXiv 2012.11524): frequent neighbouring tokens are merged into one.


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
