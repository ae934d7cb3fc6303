"""SMILES to tokens: atoms, bonds, rings and branches (the grammar of OpenSMILES, tokens as Schwaller et al. 2019)."""

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
    | Br | Cl                 # the two of the organic subset that have two letters
    | [BCNOPSFI] | [bcnops]   # the others, and the aromatic ones
    | %\(\d+\) | %\d\d | \d   # ring closures
    | [()]                    # branches
    | >> | >                  # reactions
    | [-=\#$:/\\~.*@?+]       # bonds, parts, wildcards
    """,
    re.VERBOSE,
)
_BASE = sorted(
    {*"BCNOPSFI", *"bcnops", "Br", "Cl", *string.digits, *"()[]", *"-=#$:/\\~.*@?+%>", *string.ascii_letters}
)
"""Known without a corpus: the organic subset, and every character of which an atom in brackets can be made."""


def smiles_tokens(text: str) -> list[str]:
    """The tokens of a SMILES; what is none becomes tokens of one character."""
    found: list[str] = []
    end = 0
    for match in TOKEN.finditer(text):
        found += text[end : match.start()]
        found.append(match[0])
        end = match.end()
    return [*found, *text[end:]]


def syntax_error(text: str) -> str | None:
    """Why a text is no SMILES, told without chemistry: its tokens, brackets, branches and rings. None where it is one."""
    depth = 0
    rings: set[int] = set()
    for token in smiles_tokens(text):
        if not TOKEN.fullmatch(token):
            return f"{token!r} is no part of a SMILES"
        if token in "()":
            depth += 1 if token == "(" else -1
            if depth < 0:
                return "')' without its '('"
        elif token[0] in "%0123456789":
            rings ^= {int(token.strip("%()"))}
    if depth:
        return "'(' without its ')'"
    return f"ring {min(rings)} is not closed" if rings else None


class SmilesTokenizer:
    """One token an atom, bond, ring closure or branch, behind four special ones: pad 0, bos 1, eos 2, unk 3.

    An atom in brackets that the training text does not have is spelt out, so that it comes back all the same.
    """

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    unk_token_id: int | None = 3

    def __init__(self, tokens: Iterable[str]) -> None:
        """`tokens` in the order of their ids; raises ValueError for a double one."""
        self.tokens = list(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens, 4)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("tokens must be different")
        self.vocab_size = len(self.tokens) + 4

    @classmethod
    def of(cls, texts: Iterable[str]) -> "SmilesTokenizer":
        """The tokenizer of the organic subset and of every atom in brackets that stands in `texts`."""
        seen: set[str] = set()
        for text in texts:
            seen.update(TOKEN.findall(text))
        return cls([*_BASE, *sorted(seen - set(_BASE))])

    def encode(self, text: str) -> list[int]:
        """Ids of the tokens; a character that no SMILES has becomes unk."""
        ids: list[int] = []
        find = self._ids.get
        for token in smiles_tokens(text):
            known = find(token)
            ids += [known] if known is not None else [find(character, 3) for character in token]
        return ids

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Ids of several texts."""
        return flat([self.encode(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens joined; an unknown one becomes U+FFFD."""
        known = range(4, self.vocab_size)
        return "".join(self.tokens[i - 4] if i in known else REPLACEMENT for i in map(int, ids) if i not in (0, 1, 2))

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "smiles", "tokens": self.tokens})

    def identity(self) -> str:
        """Changes whenever ids do."""
        return f"smiles {sha256(' '.join(self.tokens).encode()).hexdigest()}"
