"""Rows of JSON, CSV and Parquet files as documents, read a few at a time."""

import csv
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_manager.classes import Classes, NoClassError
from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece
from data_manager.errors import DataError
from data_manager.json_rows import json_rows
from data_manager.table_types import ColumnsConfig
from data_manager.template import MissingColumnError, NoTextError, Template, parse_template
from data_manager.text_blocks import BAD_LINE, text_blocks

Rows = Iterator[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class TableFile:
    """A file of rows; `templates` make the text of one, or the two sides of a pair."""

    path: Path
    kind: Literal["json", "csv", "parquet"]
    templates: tuple[str, ...]
    skip_invalid: bool = False
    delimiter: str = ","
    classes: Classes | None = None
    measured: tuple[str, ...] = ()

    def inputs(self, hash_file: HashFile) -> Any:
        """Content and settings."""
        found: list[Any] = [hash_file(self.path), self.kind, self.templates, self.skip_invalid, self.delimiter]
        found += [] if self.classes is None else [self.classes.column, self.classes.names]
        return [*found, self.measured] if self.measured else found

    def shards(self) -> Sequence[Corpus]:
        """Itself."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """A piece for each row whose text is not empty; raises DataError where a column is missing."""
        invalid = Invalid(self.skip_invalid, notes)
        templates = [parse_template(text) for text in self.templates]
        rows = self._rows(templates, invalid)
        yield from filled(rows, templates, str(self.path), invalid, self.classes, self.measured)

    def _rows(self, templates: Sequence[Template], invalid: Invalid) -> Rows:
        columns = columns_in(templates, self.classes, self.measured)
        if self.kind == "json":
            return json_rows(self.path, invalid)
        if self.kind == "csv":
            return csv_rows(self.path, self.delimiter, columns, invalid)
        return _parquet_rows(self.path, columns)


def classes_of(config: ColumnsConfig) -> Classes | None:
    """What a data set says of its classes, None where it has none."""
    names = tuple(config.classes) if config.classes else None
    return None if config.label is None else Classes(config.label, names)


def columns_in(templates: Sequence[Template], classes: Classes | None, measured: Sequence[str] = ()) -> list[str]:
    """Names of the columns that are read."""
    label = [classes.column] if classes else []
    texts = [column for template in templates for column in template.columns]
    return list(dict.fromkeys([*texts, *label, *measured]))


def filled(
    rows: Rows,
    templates: Sequence[Template],
    name: str,
    invalid: Invalid,
    classes: Classes | None = None,
    measured: Sequence[str] = (),
) -> Iterator[Piece]:
    """Rows as pieces; one whose text, or a side of it, is empty is counted."""
    for number, row in rows:
        place = f"{name}:{number}"
        try:
            texts = [template.fill(row) for template in templates]
            label = classes.number(row) if classes else None
            cond = tuple(_measured(row, column) for column in measured)
        except MissingColumnError as error:
            invalid(place, "a column is missing", no_column(error.column, error.known))
            continue
        except NoTextError as error:
            invalid(place, "no text", str(error))
            continue
        except NoClassError as error:
            invalid(place, "no class", str(error))
            continue
        except _NoNumberError as error:
            invalid(place, "no number", str(error))
            continue
        except KeyError as error:
            invalid(place, "a column is missing", no_column(str(error.args[0]), list(row)))
            continue
        if any(_SURROGATE.search(text or "") for text in texts):
            invalid(place, "half a character", "holds half of a character that needs two (a lone surrogate)")
        elif all(texts):
            yield Piece(tuple(text for text in texts if text), name, number, label=label, cond=cond)
        else:
            invalid.notes.add("empty text", place)


_SURROGATE = re.compile("[\ud800-\udfff]")


class _NoNumberError(ValueError):
    """What stands in a column of numbers is none."""


def _measured(row: Mapping[str, Any], column: str) -> float:
    value = row[column]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _NoNumberError(f"column {column!r} holds {value!r}, and a property is a finite number")
    return number


def no_column(column: str, known: Sequence[str]) -> str:
    """What to say of a column that is not there."""
    return f"there is no column {column!r}; there are {', '.join(known)}" if known else f"there is no column {column!r}"


def check_columns(place: str, columns: Sequence[str], known: Sequence[str], hint: str = "") -> None:
    """Raise DataError where one of `columns`, by its name or as the beginning of dotted ones, is not there."""
    for column in columns:
        if not any(name == column or name.startswith(f"{column}.") for name in known):
            raise DataError(f"{place}: {no_column(column, known)}{hint}")


def csv_rows(path: Path, delimiter: str, columns: Sequence[str], invalid: Invalid) -> Rows:
    """Rows by the number of the line that they end in; raises DataError where a column is missing."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(_csv_lines(path, invalid), delimiter=delimiter)
    try:
        header = next(reader, [])
        hint = "" if len(header) > 1 else f"; is {delimiter!r} the delimiter?"
        check_columns(f"{path}:1", columns, header, hint)
        for values in reader:
            if len(values) == len(header):
                yield reader.line_num, dict(zip(header, values, strict=True))
            elif values:
                detail = f"{len(values)} values, and the first line names {len(header)} columns"
                invalid(f"{path}:{reader.line_num}", "another number of values", detail)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error


def _csv_lines(path: Path, invalid: Invalid) -> Iterator[str]:
    rest = ""
    for block in text_blocks(path, invalid):
        lines = (rest + block.text).split("\n")
        rest = lines.pop()
        for line in lines:
            yield "\n" if line == BAD_LINE else line + "\n"
    if rest and rest != BAD_LINE:
        yield rest


def _parquet_rows(path: Path, columns: Sequence[str]) -> Rows:
    import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]
    from pyarrow import ArrowException  # type: ignore[import-untyped,unused-ignore]

    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            check_columns(str(path), columns, known)
            if double := next((name for name in columns if known.count(name) > 1), None):
                raise DataError(f"{path} has two columns of the name {double!r}; give one of them another name")
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    except (UnicodeError, OverflowError) as error:  # text that is not UTF-8, a time that no calendar has
        raise DataError(f"{path}: a row behind row {number} holds what cannot be read: {error}") from error
