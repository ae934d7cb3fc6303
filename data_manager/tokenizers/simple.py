"""Tokenizers of characters and of bytes.

Both are lossless: `decode(encode(text)) == text`, for characters only over the characters that they know.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from os import PathLike
from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import TokenizerConfig
from data_manager.tokenizers.base import REPLACEMENT, byte_positions, read_vocabulary, token_list, write_vocabulary
from data_manager.tokenizers.registry import register_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data_manager.tokenizers.base import Flat, FlatWithEnds


@register_tokenizer("characters", config=TokenizerConfig)
class CharacterTokenizer:
    """Tokenizer of single characters (Unicode code points), ids from 4; special tokens pad 0, bos 1, eos 2, unk 3."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    unk_token_id: int | None = 3

    def __init__(self, characters: Iterable[str]) -> None:
        """Assign ids from 4 in the order of `characters`; raise ValueError for a duplicate or a longer text."""
        self.characters = list(characters)
        self._ids = {character: index for index, character in enumerate(self.characters, 4)}
        if len(self._ids) != len(self.characters) or any(len(character) != 1 for character in self.characters):
            raise ValueError("characters must be single and unique")
        self.vocab_size = len(self.characters) + 4
        self._table: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, texts: Iterable[str]) -> "CharacterTokenizer":
        """Return the tokenizer of all characters in `texts`, in the order of their code points."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(sorted(seen))

    @classmethod
    def from_texts(cls, settings: TokenizerConfig, texts: Iterable[str]) -> "CharacterTokenizer":
        """Learn the characters of the training split."""
        return cls.of(texts)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "CharacterTokenizer":
        """Read `vocabulary.json`; raise ValueError or KeyError if its content is invalid."""
        return cls(token_list(read_vocabulary(folder)["characters"]))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters; an unknown one becomes unk."""
        find = self._ids.get
        return [find(character, 3) for character in text]

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts by a lookup table, a hundred times faster than character by character."""
        import numpy as np

        if self._table is None:
            codes = [ord(character) for character in self.characters]
            self._table = np.full(max(codes, default=0) + 2, 3, dtype=np.int32)
            self._table[codes] = np.arange(4, self.vocab_size, dtype=np.int32)
        found = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._table[np.minimum(found, len(self._table) - 1)], np.array([len(text) for text in texts])

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts; a token ends where its character does."""
        return *self.encode_many(texts), byte_positions("".join(texts))[1:]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; an unknown id becomes U+FFFD."""
        specials = (self.pad_token_id, self.bos_token_id, self.eos_token_id)
        known = range(4, self.vocab_size)
        return "".join(
            self.characters[i - 4] if i in known else REPLACEMENT for i in map(int, ids) if i not in specials
        )

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "characters", "characters": self.characters})

    def identity(self) -> str:
        """Return a hash of the vocabulary."""
        return f"characters {sha256(''.join(self.characters).encode('utf-8', 'surrogatepass')).hexdigest()}"


@register_tokenizer("bytes", config=TokenizerConfig)
class ByteTokenizer:
    """Tokenizer of UTF-8 bytes: ids 0 to 255, then pad 256, bos 257, eos 258."""

    pad_token_id, bos_token_id, eos_token_id = 256, 257, 258
    unk_token_id: int | None = None
    vocab_size = 259

    @classmethod
    def from_settings(cls, settings: TokenizerConfig, dataset: Any) -> "ByteTokenizer":
        """Return the tokenizer, which has no settings."""
        return cls()

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "ByteTokenizer":
        """Return the tokenizer, which has no vocabulary to read."""
        return cls()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text; raise UnicodeEncodeError for a lone surrogate."""
        return list(text.encode())

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts."""
        import numpy as np

        encoded = [text.encode() for text in texts]
        ids = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int32)
        return ids, np.array([len(data) for data in encoded])

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts; each token is a byte."""
        import numpy as np

        ids, lengths = self.encode_many(texts)
        return ids, lengths, np.arange(1, len(ids) + 1)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; invalid UTF-8, such as a row cut inside a character, becomes U+FFFD."""
        return bytes(i for i in map(int, ids) if 0 <= i < 256).decode(errors="replace")

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "bytes"})

    def identity(self) -> str:
        """Return a constant, as the ids of bytes never change."""
        return "bytes"
