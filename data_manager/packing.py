"""Texts to rows of token ids in an Arrow table; nothing is dropped, and no row spans two documents."""

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data_manager.errors import DataError
from data_manager.progress import progress
from data_manager.tokenizers import Tokenizer

if TYPE_CHECKING:
    import datasets

PIECE = 1 << 16
_LINE_START = re.compile(r"\n(?=\S)")


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Cut a text into pieces of `size` characters or a little more, for a tokenizer whose time is not linear.

    A cut stands before a line that does not begin with a space, where no token of GPT-2's kind reaches across.
    """
    start = 0
    while start < len(text):
        cut = _LINE_START.search(text, start + size - 1)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def pack(documents: Sequence[str], tokenizer: Tokenizer, length: int, label: str = "tokenising") -> "datasets.Dataset":
    """Rows `{"input_ids": int32 [<= length]}`: each document's tokens and an end token, cut every `length` tokens.

    Only the last row of a document may be shorter; the one before it gives a token up where it would have but one.
    """
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]

    kind = pa.list_(pa.int32())
    rows = [_rows(_encode(document, tokenizer), length, kind) for document in progress(documents, label)]
    return datasets.Dataset(pa.table({"input_ids": pa.chunked_array(rows, kind)}))


def pair(
    sides: tuple[Sequence[str], Sequence[str]], tokenizer: Tokenizer, limit: int | None, names: tuple[str, str]
) -> "datasets.Dataset":
    """Rows `{"source_ids", "target_ids"}` of int32, both begun and ended by special tokens; one row a line.

    `names` are the two files, for messages. Raises DataError for counts of lines that differ, and for a sentence of
    more than `limit` tokens.
    """
    import datasets
    import pyarrow as pa

    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise DataError(
            f"{names[0]} has {counts[0]} lines and {names[1]} has {counts[1]}; line N of one must belong to line N of "
            "the other"
        )
    columns = [_sentences(side, tokenizer, limit, name) for side, name in zip(sides, names, strict=True)]
    kind = pa.list_(pa.int32())
    arrays = [pa.array(column, kind) for column in columns]
    return datasets.Dataset(pa.table({"source_ids": arrays[0], "target_ids": arrays[1]}))


def _encode(document: str, tokenizer: Tokenizer) -> "array[int]":
    ids = array("i")
    for piece in pieces(document):
        ids.extend(tokenizer.encode(piece))
    ids.append(tokenizer.eos_token_id)
    return ids


def _rows(ids: "array[int]", length: int, kind: Any) -> Any:
    """An Arrow list array over the flat ids, without a copy of them."""
    import numpy as np
    import pyarrow as pa

    offsets = np.append(np.arange(0, len(ids), length), len(ids)).astype(np.int32)
    if len(offsets) > 2 and offsets[-1] - offsets[-2] == 1 and length > 2:
        offsets[-2] -= 1  # a row of one token would have nothing to predict
    values = np.frombuffer(ids, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)


def _sentences(lines: Sequence[str], tokenizer: Tokenizer, limit: int | None, name: str) -> list[list[int]]:
    found = []
    for number, line in enumerate(progress(lines, f"tokenising {name}"), 1):
        ids = [tokenizer.bos_token_id, *tokenizer.encode(line), tokenizer.eos_token_id]
        if limit is not None and len(ids) > limit:
            raise DataError(
                f"{name}:{number}: {len(ids)} tokens are more than sequence_length {limit}; raise it or leave it out"
            )
        found.append(ids)
    return found
