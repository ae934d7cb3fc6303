"""Text to token ids and back: the protocol of a tokenizer, and those of characters and of bytes.

Both keep whatever text they are given: `decode(encode(text)) == text` over the characters that they know.
"""

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from data_manager.errors import DataError

VOCABULARY_FILE = "vocabulary.json"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """What the rest of the house knows of a tokenizer. Ids are 0 to vocab_size - 1."""

    vocab_size: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    unk_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens around it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; padding, beginning and end are left out."""
        ...

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer as JSON into a folder, which is made where it is missing."""
        ...


class CharacterTokenizer:
    """One token a character (Unicode code point), behind four special ones: pad 0, bos 1, eos 2, unk 3."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    unk_token_id: int | None = 3

    def __init__(self, characters: Iterable[str]) -> None:
        """`characters` in the order of their ids; raises ValueError for one that is double or not one character."""
        self.characters = list(characters)
        self._ids = {character: index for index, character in enumerate(self.characters, 4)}
        if len(self._ids) != len(self.characters) or any(len(character) != 1 for character in self.characters):
            raise ValueError("characters must be single and different")
        self.vocab_size = len(self.characters) + 4

    @classmethod
    def of(cls, texts: Iterable[str]) -> "CharacterTokenizer":
        """The tokenizer of every character that stands in `texts`, in the order of their code points."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(sorted(seen))

    def encode(self, text: str) -> list[int]:
        """Ids of the characters; one that is not known becomes unk."""
        find = self._ids.get
        return [find(character, 3) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The characters; an unknown one becomes U+FFFD."""
        specials = (self.pad_token_id, self.bos_token_id, self.eos_token_id)
        known = range(4, self.vocab_size)
        return "".join(
            self.characters[i - 4] if i in known else REPLACEMENT for i in map(int, ids) if i not in specials
        )

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "characters", "characters": self.characters})


class ByteTokenizer:
    """One token a byte of UTF-8: ids 0 to 255, then pad 256, bos 257, eos 258."""

    pad_token_id, bos_token_id, eos_token_id = 256, 257, 258
    unk_token_id: int | None = None
    vocab_size = 259

    def encode(self, text: str) -> list[int]:
        """The bytes of the text; raises UnicodeEncodeError for a lone surrogate."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8, as where a row was cut inside a character, become U+FFFD."""
        return bytes(i for i in map(int, ids) if 0 <= i < 256).decode(errors="replace")

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "bytes"})


def write_vocabulary(folder: str | PathLike[str], content: dict[str, Any]) -> None:
    """Write the file by which `load_tokenizer` knows a tokenizer's folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (Path(folder) / VOCABULARY_FILE).write_text(text + "\n", encoding="utf-8")


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder, or a Hugging Face tokenizer's folder; raises DataError."""
    path = Path(folder) / VOCABULARY_FILE
    if not path.is_file():
        return _load_hugging_face(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["type"]
        if kind == "characters":
            characters: Sequence[str] = content["characters"]
            return CharacterTokenizer(characters)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a tokenizer's file: {error}") from error
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "hugging_face":
        return _load_hugging_face(folder)
    raise DataError(f"{path}: unknown type of tokenizer {kind!r}; known: characters, bytes, hugging_face")


def _load_hugging_face(folder: str | PathLike[str]) -> Tokenizer:
    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

    return HuggingFaceTokenizer.load(folder)
