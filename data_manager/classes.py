"""Classes of documents: a column of a table to their numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class NoClassError(ValueError):
    """A row's class is none of those known; the message says what stands there and what fits."""


@dataclass(frozen=True)
class Classes:
    """The column that holds the class, and the names of the classes in the order of their numbers, if they have any."""

    column: str
    names: tuple[str, ...] | None = None

    def number(self, row: Mapping[str, Any]) -> int:
        """The number of a row's class; raises NoClassError, or KeyError where the row has no such column."""
        value = row[self.column]
        if self.names is not None:
            if str(value) not in self.names:
                raise NoClassError(f"column {self.column!r} holds {value!r}; the classes are {', '.join(self.names)}")
            return self.names.index(str(value))
        text = str(int(value)) if isinstance(value, bool) else str(value).strip()
        if not (text.isascii() and text.isdigit() and int(text) < 2**31):
            raise NoClassError(
                f"column {self.column!r} holds {value!r}, and a class is a whole number from 0; name the classes: "
                "`classes: [first, second]`"
            )
        return int(text)
