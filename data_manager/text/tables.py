"""Corpora of JSON, CSV and Parquet files, read incrementally."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece, has_text
from data_manager.errors import DataError
from data_manager.text.chat import Conversations, MessagesError, plain_chat, read_messages
from data_manager.text.csv_files import Rows, check_columns, csv_rows, describe_missing_column
from data_manager.text.files import BAD_LINE, text_blocks
from data_manager.text.table_types import ColumnsConfig
from data_manager.text.template import MissingColumnError, NoTextError, Template, parse_template
from model_factory.yaml_config.schema_version import parse_json

# Class labels: convert the values of a column to class numbers.


class NoClassError(ValueError):
    """Error of a row with an unknown class; the message names the value and the known classes."""


@dataclass(frozen=True)
class Classes:
    """Column of the class, and optional names of the classes in the order of their numbers."""

    column: str
    names: tuple[str, ...] | None = None

    def number(self, row: Mapping[str, Any]) -> int:
        """Return the class number of a row; raise NoClassError, or KeyError if the column is missing."""
        value = row[self.column]
        if value is None or (isinstance(value, float) and math.isnan(value)) or (value == "" and not self.names):
            raise NoClassError(f"column {self.column!r} is empty; a row needs a class; on_invalid: skip leaves it out")
        if self.names is not None:
            found = next((word for word in _spellings(value) if word in self.names), None)
            if found is None:
                raise NoClassError(f"column {self.column!r} holds {value!r}; the classes are {', '.join(self.names)}")
            return self.names.index(found)
        text = str(int(value)) if isinstance(value, bool) else str(value).strip()
        if not (digits := re.fullmatch(r"0*([0-9]{1,10})(\.0*)?", text)) or int(digits[1]) >= 2**31:
            raise NoClassError(
                f"column {self.column!r} holds {value!r}; a class is a whole number from 0, or name all classes as text, "
                f"in the order of their numbers: `classes: [{json.dumps(text, ensure_ascii=False)}, ...]`"
            )
        return int(digits[1])


def _spellings(value: Any) -> Iterator[str]:
    """Yield the texts that name a class: of a bool `True` and JSON's `true`, of 1.0 also `1`."""
    yield str(value)
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))


# Read objects of a JSON file incrementally, one a line or all in one array.


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


class _DoubleKeyError(ValueError):
    """Error of a JSON object with a key twice; the message names the key."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; raise _DoubleKeyError, as `json` would keep the last of two values silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise _DoubleKeyError(f"there are two keys {double!r} in one object; rename one of them")
    return found


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
        row = parse_json(line, _unique_keys)
    except ValueError as error:
        what = getattr(error, "msg", error)
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        detail = f"{error}" if isinstance(error, _DoubleKeyError) else f"not a JSON object on one line: {what}{column}"
        invalid(f"{path}:{number}", "invalid JSON", detail)
        return
    if isinstance(row, dict):
        yield number, row
    else:
        invalid(f"{path}:{number}", "not a JSON object", f"must be a JSON object; got {type(row).__name__}")


def _array(path: Path, blocks: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of one array with the lines in which they begin."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
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
            except _DoubleKeyError as error:
                raise DataError(f"{path}:{line}: {error}") from error
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


@dataclass(frozen=True)
class TableFile:
    """Corpus of the rows of a file; `templates` format the text of a row, or the two sides of a pair."""

    path: Path
    kind: Literal["json", "csv", "parquet"]
    templates: tuple[str, ...]
    skip_invalid: bool = False
    delimiter: str = ","
    classes: Classes | None = None
    measured: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()
    """Names of the columns of a CSV file without a header."""
    messages: Conversations | None = None
    """Column of messages, in place of templates."""

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the hash of the content, and the settings."""
        found: list[Any] = [hash_file(self.path), self.kind, self.templates, self.skip_invalid, self.delimiter]
        found += [] if self.classes is None else [self.classes.column, self.classes.names]
        found += [self.measured] if self.measured else []
        found += [] if self.messages is None else ["messages", self.messages.column, self.messages.chat]
        return [*found, "column_names", self.column_names] if self.column_names else found

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus as a single shard."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read a piece from each row with a non-empty text; raise DataError if a column is missing."""
        invalid = Invalid(self.skip_invalid, notes)
        templates = [parse_template(text) for text in self.templates]
        rows = self._rows(templates, invalid)
        yield from read_pieces(rows, templates, str(self.path), invalid, self.classes, self.measured, self.messages)

    def _rows(self, templates: Sequence[Template], invalid: Invalid) -> Rows:
        columns = columns_in(templates, self.classes, self.measured, self.messages)
        if self.kind == "json":
            return json_rows(self.path, invalid)
        if self.kind == "csv":
            return csv_rows(self.path, self.delimiter, columns, invalid, self.column_names)
        return _parquet_rows(self.path, columns)


def classes_of(config: ColumnsConfig) -> Classes | None:
    """Return the class labels of a data set, or None."""
    names = tuple(config.classes) if config.classes else None
    return None if config.label is None else Classes(config.label, names)


def messages_of(config: ColumnsConfig) -> Conversations | None:
    """Return the column of messages of a data set, or None."""
    return None if config.messages is None else Conversations(config.messages, config.chat)


def columns_in(
    templates: Sequence[Template],
    classes: Classes | None,
    measured: Sequence[str] = (),
    messages: Conversations | None = None,
) -> list[str]:
    """Return the names of the columns to read."""
    label = [classes.column] if classes else []
    texts = [column for template in templates for column in template.columns]
    texts += [messages.column] if messages else []
    return list(dict.fromkeys([*texts, *label, *measured]))


def read_pieces(
    rows: Rows,
    templates: Sequence[Template],
    name: str,
    invalid: Invalid,
    classes: Classes | None = None,
    measured: Sequence[str] = (),
    messages: Conversations | None = None,
) -> Iterator[Piece]:
    """Convert rows to pieces; skip and count a row whose text, or one side of it, is empty."""
    for number, row in rows:
        place = f"{name}:{number}"
        try:
            text = _conversation(row, messages) if messages else _filled(row, templates)
            label = classes.number(row) if classes else None
            cond = tuple(_measured_value(row, column) for column in measured)
        except MissingColumnError as error:
            invalid(place, "a column is missing", describe_missing_column(error.column, error.known))
            continue
        except NoTextError as error:
            invalid(place, "not text", str(error))
            continue
        except MessagesError as error:
            invalid(place, "invalid messages", str(error))
            continue
        except NoClassError as error:
            invalid(place, "invalid class", str(error))
            continue
        except _NotANumberError as error:
            invalid(place, "not a number", str(error))
            continue
        except KeyError as error:
            invalid(place, "a column is missing", describe_missing_column(str(error.args[0]), list(row)))
            continue
        if any(_LONE_SURROGATE.search(side) for side in text.texts):
            invalid(place, "lone surrogate", "contains half a character (a lone surrogate)")
        elif has_text(text.texts):
            if any(begin == end for begin, end in text.responses or ()):
                invalid.notes.add("empty response", place, kept=True)
            yield text._replace(file=name, line=number, label=label, cond=cond)
        else:
            invalid.notes.add("empty text", place)


def _filled(row: Mapping[str, Any], templates: Sequence[Template]) -> Piece:
    """Format the text of a row, or its two sides."""
    if len(templates) == 1 and templates[0].has_responses:
        text, spans = templates[0].fill_spans(row) or ("", ())
        return Piece((text,), "", 0, responses=spans)
    return Piece(tuple(template.fill(row) or "" for template in templates), "", 0)


def _conversation(row: Mapping[str, Any], messages: Conversations) -> Piece:
    """Write the messages of a row in the plain format; the piece keeps them for a tokenizer with a chat template."""
    found = read_messages(row[messages.column], messages.column)
    text, spans = plain_chat(found)
    again = () if messages.chat == "plain" else found
    return Piece((text,), "", 0, responses=spans, messages=again, chat=messages.chat or "plain")


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _NotANumberError(ValueError):
    """Error of a value that is not a finite number."""


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A decimal number; `float` also reads 1_000, infinity and the digits of other scripts."""


def _measured_value(row: Mapping[str, Any], column: str) -> float:
    value = row[column]
    try:
        is_odd = isinstance(value, str) and not _NUMBER.fullmatch(value.strip())
        number = math.nan if is_odd else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _NotANumberError(
            f"column {column!r} holds {value!r}; a property must be a finite number in digits 0 to 9, such as 1000 or 1e3"
        )
    return number


def _parquet_rows(path: Path, columns: Sequence[str]) -> Rows:
    import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]
    from pyarrow import ArrowException  # type: ignore[import-untyped,unused-ignore]

    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            check_columns(str(path), columns, known)
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    except (UnicodeError, OverflowError) as error:  # invalid UTF-8, or a time out of range
        raise DataError(f"{path}: a row after row {number} is unreadable: {error}") from error
