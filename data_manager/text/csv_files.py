"""Rows of CSV files, read incrementally; a quote that is not closed is reported with its line."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_manager.documents import Invalid, Notes
from data_manager.errors import DataError
from data_manager.text.files import text_lines

Rows = Iterator[tuple[int, Mapping[str, Any]]]

_LONGEST = 1 << 28
"""Maximum characters of one value; behind an open quote the rest of the file would be one value."""
_REMEDY = 'inside a quoted value, write a quote as two: ""'


def check_columns(place: str, columns: Sequence[str], known: Sequence[str], hint: str = "") -> None:
    """Raise DataError if one of `columns` is missing, by its name or as a prefix of dotted names, or is there twice."""
    for column in columns:
        found = [name for name in known if name == column or name.startswith(f"{column}.")]
        if not found:
            raise DataError(f"{place}: {describe_missing_column(column, known)}{hint}")
        if double := next((name for name in found if found.count(name) > 1), None):
            raise DataError(f"{place}: there are two columns named {double!r}; rename one of them")


def describe_missing_column(column: str, known: Sequence[str]) -> str:
    """Return the message about a missing column."""
    return f"there is no column {column!r}; columns: {', '.join(known)}" if known else f"there is no column {column!r}"


def csv_rows(
    path: Path, delimiter: str, columns: Sequence[str], invalid: Invalid, names: Sequence[str] | None = None
) -> Rows:
    """Yield rows with the number of their last line.

    Arguments:
        columns: names of the columns to read.
        names: names of all columns of a file without a header; by default its first line names them.

    Raises DataError for a missing or ambiguous column and for an open quote.
    """
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(text_lines(path, invalid), delimiter=delimiter, strict=True)
    records = _records(reader, path, delimiter, invalid)
    header = list(names) if names else next(records, (0, []))[1]
    where, hint = f"{path}:1", "" if len(header) > 1 else f"; is {delimiter!r} the delimiter?"
    check_columns(where, columns, header, hint)
    for first, values in records:
        line = reader.line_num
        if names and values == header:
            raise DataError(f"{path}:{line}: this line names the columns; remove column_names")
        if len(values) != len(header):
            named = "column_names names" if names else "the first line names"
            detail = f"{len(values)} values; {named} {len(header)} columns"
            invalid(f"{path}:{line}", "wrong number of values", detail)
            continue
        if line > first and _looks_like_rows(values, delimiter):
            reason = "a quoted value that holds lines like those of rows; is a quote missing?"
            invalid.notes.add(reason, f"{path}:{first}", kept=True)
        yield line, dict(zip(header, values, strict=True))


def _records(reader: Any, path: Path, delimiter: str, invalid: Invalid) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each record that is not empty, with its first line."""
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            line, message, is_open = _explain(error, path, delimiter, first, reader.line_num)
            if is_open:  # no later line is known to be the start of a record
                raise DataError(f"{path}:{line}: {message}") from error
            invalid(f"{path}:{line}", "invalid CSV", message)
            continue
        if values is None:
            return
        if values:
            yield first, values


def _explain(error: csv.Error, path: Path, delimiter: str, first: int, last: int) -> tuple[int, str, bool]:
    """Return the line and the message of an error in the record of the lines `first` to `last`.

    The third value is True if the record may have swallowed others: its quote is open.
    """
    lines = islice(text_lines(path, Invalid(True, Notes())), first - 1, last)
    line = first + _lines_before_bad_quote("".join(lines), delimiter)
    if "expected after" in str(error):
        return line, f"text follows the closing quote of the value that begins here; {_REMEDY}", False
    if "unexpected end" in str(error):
        return line, f"the quote that opens here is never closed; close it; {_REMEDY}", True
    if "field limit" in str(error):
        return line, f"a value of more than {_LONGEST:,} characters begins here; is its quote closed?", True
    if "new-line" in str(error):
        return last, r"a carriage return (\r) is inside a line; end each line with \n or \r\n", False
    return last, str(error), True


def _lines_before_bad_quote(record: str, delimiter: str) -> int:
    """Count the line ends before the first value of a record that is neither plain nor in quotes."""
    between = re.escape(delimiter)
    value = re.compile(rf'(?:"[^"]*(?:""[^"]*)*"|(?!")[^{between}\n]*)(?:{between}|\n|\Z)')
    position = 0
    while position < len(record) and (found := value.match(record, position)):
        position = found.end()
    return record.count("\n", 0, position)


def _looks_like_rows(values: Sequence[str], delimiter: str) -> bool:
    """Return True if each of three or more lines of a record would be a row, were its quotes plain characters."""
    lines = delimiter.join(values).split("\n")
    return len(values) > 1 and len(lines) > 2 and all(line.count(delimiter) == len(values) - 1 for line in lines)
