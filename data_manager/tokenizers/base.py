"""The `Tokenizer` protocol, and helpers that every tokenizer shares; no tokenizer is imported here.

A kind of tokenizer is registered in `data_manager.tokenizers.registry` and read back by `data_manager.tokenizers.load`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from model_factory.yaml_config.schema_version import add_version, parse_json, remove_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Flat = tuple[NDArray[np.int32], NDArray[np.int64]]
    """Ids of several texts in one array, and the number of ids of each text."""
    FlatWithEnds = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
    """`Flat`, and the position in the UTF-8 bytes of the concatenated texts at which each token ends."""

VOCABULARY_FILE = "vocabulary.json"
"""File that names the kind of tokenizer in a folder, with the vocabulary of kinds that write no other file."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """Interface of a tokenizer. Ids are 0 to vocab_size - 1.

    Three methods are optional: `encode_many(texts) -> Flat`, a faster batched `encode`; `identity() -> str`, a text that
    changes whenever ids do, so that data tokenised before are not reused; and `encode_with_ends(texts) -> FlatWithEnds`,
    which also tells where in the texts the tokens end, so that figures are exact per character and per byte.
    """

    vocab_size: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    unk_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text: no special tokens around it, and none for their names in it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; skip pad, bos and eos."""
        ...

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer into a folder, which is created if missing; use `write_vocabulary`."""
        ...


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of text that a tokenizer does not know; None if it knows every text.

    GPT-2 names its end of text as unknown, but its bytes encode everything.
    """
    unknown = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) else unknown


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> "Flat":
    """Encode several texts into one array of ids and one of lengths; use the tokenizer's `encode_many` if it has one."""
    import numpy as np

    own: Callable[[Sequence[str]], Flat] | None = getattr(tokenizer, "encode_many", None)
    if own is not None:
        return own(texts)
    encoded = [tokenizer.encode(text) for text in texts]
    return flat(encoded) if encoded else (np.empty(0, np.int32), np.empty(0, np.int64))


def flat(encoded: Sequence[Sequence[int]]) -> "Flat":
    """Concatenate lists of ids into one array; return it with the lengths."""
    from itertools import chain

    import numpy as np

    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths


def encode_with_ends(tokenizer: Tokenizer, texts: Sequence[str]) -> "FlatWithEnds":
    """Encode several texts, and find where each token ends; use the tokenizer's `encode_with_ends` if it has one."""
    own: Callable[[Sequence[str]], FlatWithEnds] | None = getattr(tokenizer, "encode_with_ends", None)
    return encode_with_estimated_ends(tokenizer, texts) if own is None else own(texts)


def encode_with_estimated_ends(tokenizer: Tokenizer, texts: Sequence[str]) -> "FlatWithEnds":
    """Encode several texts, and find where each token ends by decoding it alone.

    The ends are exact if the decoded tokens of a text concatenate to it. Otherwise they are spread evenly over the text.
    """
    import numpy as np

    ids, lengths = encode_many(tokenizer, texts)
    ends = [np.empty(0, np.int64)]
    begin = first = 0
    for text, length in zip(texts, lengths.tolist(), strict=True):
        size = len(text.encode("utf-8", "surrogatepass"))
        parts = [tokenizer.decode([token]) for token in ids[first : first + length].tolist()]
        is_exact = "".join(parts) == text
        sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
        within = np.cumsum(sizes) if is_exact else np.arange(1, length + 1) * size // max(length, 1)
        ends.append(begin + within.astype(np.int64))
        begin, first = begin + size, first + length
    return ids, lengths, np.concatenate(ends)


def byte_positions(text: str) -> "NDArray[np.int64]":
    """Return the positions [len(text) + 1] in the UTF-8 bytes of a text at which its characters begin, and its size."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def write_vocabulary(folder: str | PathLike[str], content: dict[str, Any]) -> None:
    """Write `vocabulary.json` into a folder; `content["type"]` is the registered name of the tokenizer's kind."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(add_version(content), ensure_ascii=False, indent=1)
    (Path(folder) / VOCABULARY_FILE).write_text(text + "\n", encoding="utf-8")


def read_vocabulary(folder: str | PathLike[str]) -> dict[str, Any]:
    """Return the content that `write_vocabulary` wrote; raise OSError or ValueError if the file is unreadable."""
    path = Path(folder) / VOCABULARY_FILE
    return remove_version(parse_json(path.read_text(encoding="utf-8")), path)


def token_list(value: object) -> list[str]:
    """Return `value` if it is a list of non-empty texts without lone surrogates; raise ValueError otherwise."""
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ValueError("its tokens must be a list of non-empty texts")
    for word in value:
        word.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    return value


def spread_equal(ends: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Spread tokens that end together, as the bytes of one character do, evenly from the end before them."""
    import numpy as np

    values, group, counts = np.unique(ends, return_inverse=True, return_counts=True)
    before = np.concatenate([np.zeros(1, np.int64), values])[:-1]
    number = np.arange(1, len(ends) + 1) - (np.cumsum(counts) - counts)[group]
    found: NDArray[np.int64] = before[group] + (values - before)[group] * number // counts[group]
    return found
