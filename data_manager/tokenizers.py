"""Text to token ids and back: the protocol of a tokenizer, and those of characters and of bytes.

Both keep whatever text they are given: `decode(encode(text)) == text` over the characters that they know.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_manager.errors import DataError
from yaml_config.json_text import from_json
from yaml_config.schema_version import SchemaVersionError, stamped, unstamped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Flat = tuple[NDArray[np.int32], NDArray[np.int64]]
    """Ids of several texts one after another, and how many belong to each."""

VOCABULARY_FILE = "vocabulary.json"
KINDS = ("characters", "bytes", "smiles", "bpe", "hugging_face")
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
        self._table: NDArray[np.int32] | None = None

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

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Ids of several texts, by a table: a hundred times faster than one character after another."""
        import numpy as np

        if self._table is None:
            codes = [ord(character) for character in self.characters]
            self._table = np.full(max(codes, default=0) + 2, 3, dtype=np.int32)
            self._table[codes] = np.arange(4, self.vocab_size, dtype=np.int32)
        found = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._table[np.minimum(found, len(self._table) - 1)], np.array([len(text) for text in texts])

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

    def identity(self) -> str:
        """Changes whenever ids do."""
        return f"characters {sha256(''.join(self.characters).encode('utf-8', 'surrogatepass')).hexdigest()}"


class ByteTokenizer:
    """One token a byte of UTF-8: ids 0 to 255, then pad 256, bos 257, eos 258."""

    pad_token_id, bos_token_id, eos_token_id = 256, 257, 258
    unk_token_id: int | None = None
    vocab_size = 259

    def encode(self, text: str) -> list[int]:
        """The bytes of the text; raises UnicodeEncodeError for a lone surrogate."""
        return list(text.encode())

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """The bytes of several texts."""
        import numpy as np

        encoded = [text.encode() for text in texts]
        ids = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int32)
        return ids, np.array([len(data) for data in encoded])

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8, as where a row was cut inside a character, become U+FFFD."""
        return bytes(i for i in map(int, ids) if 0 <= i < 256).decode(errors="replace")

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `vocabulary.json`."""
        write_vocabulary(folder, {"type": "bytes"})

    def identity(self) -> str:
        """Changes whenever ids do: never."""
        return "bytes"


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> "Flat":
    """Ids of several texts in one array, and the number of each; a tokenizer's own `encode_many` is used if it has one."""
    import numpy as np

    own: Callable[[Sequence[str]], Flat] | None = getattr(tokenizer, "encode_many", None)
    if own is not None:
        return own(texts)
    encoded = [tokenizer.encode(text) for text in texts]
    return flat(encoded) if encoded else (np.empty(0, np.int32), np.empty(0, np.int64))


def flat(encoded: Sequence[Sequence[int]]) -> "Flat":
    """Lists of ids as one array, and their lengths."""
    from itertools import chain

    import numpy as np

    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths


def write_vocabulary(folder: str | PathLike[str], content: dict[str, Any]) -> None:
    """Write the file by which `load_tokenizer` knows a tokenizer's folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(stamped(content), ensure_ascii=False, indent=1)
    (Path(folder) / VOCABULARY_FILE).write_text(text + "\n", encoding="utf-8")


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder, or a Hugging Face tokenizer's folder; raises DataError."""
    path = Path(folder) / VOCABULARY_FILE
    if not path.is_file():
        return _load_hugging_face(folder)
    try:
        content = unstamped(from_json(path.read_text(encoding="utf-8")), path)
        kind = content["type"]
        found = _of_content(kind, content, folder)
    except DataError:
        raise
    except SchemaVersionError as error:
        raise DataError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a tokenizer's file: {error}") from error
    if found is None:
        raise DataError(f"{path}: unknown type of tokenizer {kind!r}; known: {', '.join(KINDS)}")
    return found


def _words(value: object) -> list[str]:
    """Tokens as a file lists them; raises ValueError for what is no list of texts."""
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ValueError("its tokens are no list of texts that are not empty")
    for word in value:
        word.encode()  # UnicodeEncodeError, a ValueError, for half a character
    return value


def _of_content(kind: object, content: dict[str, Any], folder: str | PathLike[str]) -> Tokenizer | None:
    if kind == "characters":
        return CharacterTokenizer(_words(content["characters"]))
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "smiles":
        from data_manager.smiles_tokenizer import SmilesTokenizer

        if "pairs" not in content:
            return SmilesTokenizer(_words(content["tokens"]))
        from data_manager.smiles_pairs import SmilesPairTokenizer

        return SmilesPairTokenizer(_words(content["tokens"]), content["pairs"])
    if kind == "bpe":
        from data_manager.bpe_tokenizer import BpeTokenizer

        return BpeTokenizer.load(folder)
    return _load_hugging_face(folder) if kind == "hugging_face" else None


def _load_hugging_face(folder: str | PathLike[str]) -> Tokenizer:
    from data_manager.hugging_face_tokenizer import HuggingFaceTokenizer

    return HuggingFaceTokenizer.load(folder)
