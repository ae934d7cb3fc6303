"""SMILES tokenizer: atoms, bonds, rings and branches (OpenSMILES grammar, tokens as in Schwaller et al. 2019)."""

import re
import string
from collections.abc import Iterable, Sequence
from hashlib import sha256
from os import PathLike
from typing import TYPE_CHECKING

from data_manager.tokenizer_base import REPLACEMENT, flat, write_vocabulary

if TYPE_CHECKING:
    from data_manager.tokenizer_base import Flat

TOKEN = re.compile(
    r"""
      \[[^\[\]]+\]            # an atom in brackets: isotope, chirality, hydrogens, charge
    | Br | Cl                 # the two-letter elements of the organic subset
    | [BCNOPSFI] | [bcnops]   # the others, and the aromatic ones
    | %\(\d+\) | %\d\d | \d   # ring closures
    | [()]                    # branches
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


def syntax_error(text: str) -> str | None:
    """Return the first syntax error of a SMILES (tokens, brackets, branches, rings; no chemistry), or None."""
    depth = 0
    rings: set[int] = set()
    for token in split_smiles(text):
        if not TOKEN.fullmatch(token):
            return f"{token!r} is not a SMILES token"
        if token in "()":
            depth += 1 if token == "(" else -1
            if depth < 0:
                return "')' without a matching '('"
        elif token[0] in "%0123456789":
            rings ^= {int(token.strip("%()"))}
    if depth:
        return "'(' without a matching ')'"
    return f"ring {min(rings)} is not closed" if rings else None


class SmilesTokenizer:
    """Tokenizer of atoms, bonds, ring closures and branches, ids from 4; special tokens pad 0, bos 1, eos 2, unk 3.

    An atom in brackets that is not in the vocabulary is encoded character by character, so encoding stays lossless.
    """

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
