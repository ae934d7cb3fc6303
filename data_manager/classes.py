"""Class labels: convert the values of a column to class numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        if self.names is not None:
            if str(value) not in self.names:
                raise NoClassError(f"column {self.column!r} holds {value!r}; the classes are {', '.join(self.names)}")
            return self.names.index(str(value))
        text = str(int(value)) if isinstance(value, bool) else str(value).strip()
        if not (text.isascii() and text.isdigit() and int(text) < 2**31):
            raise NoClassError(
                f"column {self.column!r} holds {value!r}; a class is a whole number from 0, or name the classes: "
                "`classes: [first, second]`"
            )
        return int(text)
