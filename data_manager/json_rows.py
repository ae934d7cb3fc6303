"""Objects of a JSON file, one a line or all in one array, read a few at a time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.documents import Invalid
from data_manager.errors import DataError
from data_manager.text_blocks import BAD_LINE, text_blocks
from yaml_config.json_text import from_json

_SPACE = " \t\n\r"
_NEAR_END = 1 << 16
"""An error this far from the end of what has been read is not healed by what follows."""
_LONGEST = 1 << 28
"""Characters of one object in an array, beyond which the file is taken to be broken."""


def json_rows(path: Path, invalid: Invalid) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Objects by the numbers of their lines; raises DataError for what is no JSON, or no object."""
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
        invalid(f"{path}:{number}", "no JSON", f"no JSON object on one line: {what}{column}")
        return
    if isinstance(row, dict):
        yield number, row
    else:
        invalid(f"{path}:{number}", "no JSON object", f"must be a JSON object; got {type(row).__name__}")


def _array(path: Path, blocks: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of one array, by the lines that they begin in."""
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
                raise DataError(f"{path}:{line}: no JSON: nested too deep") from error
            except ValueError as error:
                inside = isinstance(error, json.JSONDecodeError) and error.pos < len(text) - _NEAR_END
                if inside or len(text) > _LONGEST:
                    raise DataError(f"{path}:{line}: no JSON: {error}") from error
                break  # the rest of the object is in the next block
            if not isinstance(row, dict):
                raise DataError(f"{path}:{line}: must be a JSON object; got {type(row).__name__}")
            yield line, row
            line += text.count("\n", 0, end)
            text, wants = text[end:], ","
    if wants:
        raise DataError(f"{path}:{line}: the array does not end; is the file complete?")


def _punctuation(path: Path, line: int, found: str, wants: str) -> str:
    """What comes behind one of `[`, `,` and `]`; raises DataError where something else stands."""
    if found == "[" == wants or found == "," == wants:
        return "{"
    if found == "]" and wants == ",":
        return ""
    raise DataError(f"{path}:{line}: {found!r} stands where {repr(wants) if wants else 'nothing more'} was expected")
