"""Read objects of a JSON file incrementally, one a line or all in one array."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.documents import Invalid
from data_manager.errors import DataError
from data_manager.text_blocks import BAD_LINE, text_blocks
from yaml_config.json_text import from_json

_SPACE = " \t\n\r"
_UNCERTAIN_TAIL = 1 << 16
"""A syntax error this many characters before the end of the buffer is final, as more input cannot repair it."""
_MAX_OBJECT = 1 << 28
"""Maximum characters of one object in an array; a longer one is an error."""


def json_rows(path: Path, invalid: Invalid) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield objects with their line numbers; raise DataError for invalid JSON and for other values."""
    blocks = (block.text for block in text_blocks(path, invalid))
    start = ""
    for text in blocks:
        start += text
        if start.strip():
            break
    chained = _chained(start, blocks)
    return _array(path, chained) if start.lstrip().startswith("[") else _lines(path, chained, invalid)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _lines(path: Path, blocks: Iterator[str], invalid: Invalid) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rest, number = "", 0
    for text in blocks:
        lines = (rest + text).split("\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            yield from _line(path, number, line, invalid)
    yield from _line(path, number + 1, rest, invalid)


def _line(path: Path, number: int, line: str, invalid: Invalid) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not line.strip() or line == BAD_LINE:
        return
    try:
        row = from_json(line)
    except ValueError as error:
        what = getattr(error, "msg", error)
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        invalid(f"{path}:{number}", "invalid JSON", f"not a JSON object on one line: {what}{column}")
        return
    if isinstance(row, dict):
        yield number, row
    else:
        invalid(f"{path}:{number}", "not a JSON object", f"must be a JSON object; got {type(row).__name__}")


def _array(path: Path, blocks: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of one array with the lines in which they begin."""
    decoder = json.JSONDecoder()
    text, line, wants = "", 1, "["
    for block in blocks:
        text += block
        while True:
            skipped = len(text) - len(text.lstrip(_SPACE))
            line += text.count("\n", 0, skipped)
            text = text[skipped:]
            if not text:
                break
            if wants != "{":
                wants = _punctuation(path, line, text[0], wants)
                text = text[1:]
                continue
            if text[0] == "]":
                wants, text = "", text[1:]
                continue
            try:
                row, end = decoder.raw_decode(text)
            except RecursionError as error:
                raise DataError(f"{path}:{line}: invalid JSON: nested too deep") from error
            except ValueError as error:
                inside = isinstance(error, json.JSONDecodeError) and error.pos < len(text) - _UNCERTAIN_TAIL
                if inside or len(text) > _MAX_OBJECT:
                    raise DataError(f"{path}:{line}: invalid JSON: {error}") from error
                break  # the rest of the object is in the next block
            if not isinstance(row, dict):
                raise DataError(f"{path}:{line}: must be a JSON object; got {type(row).__name__}")
            yield line, row
            line += text.count("\n", 0, end)
            text, wants = text[end:], ","
    if wants:
        raise DataError(f"{path}:{line}: the array is not closed; is the file complete?")


def _punctuation(path: Path, line: int, found: str, wants: str) -> str:
    """Return what may follow one of `[`, `,` and `]`; raise DataError for another character."""
    if found == "[" == wants or found == "," == wants:
        return "{"
    if found == "]" and wants == ",":
        return ""
    raise DataError(f"{path}:{line}: expected {repr(wants) if wants else 'the end'}, found {found!r}")
