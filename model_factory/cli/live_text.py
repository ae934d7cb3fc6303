"""Text on a terminal that is drawn again while it changes, such as an answer that is denoised."""

import shutil
import unicodedata
from typing import TextIO

from model_factory.yaml_config.errors import escape_controls

_CLEAR_BELOW = "\x1b[0J"


class LiveText:
    """Text at the end of a terminal; each `show` replaces the one before. Where it is no terminal, only `finish` writes."""

    def __init__(self, stream: TextIO, *, is_terminal: bool) -> None:
        self._stream, self._is_terminal = stream, is_terminal
        self._rows = 0
        """Rows of the terminal between the beginning of the text and the cursor."""

    def show(self, text: str) -> None:
        """Draw a text that will be replaced; of one that is higher than the terminal its end."""
        if not self._is_terminal:
            return
        columns, lines = shutil.get_terminal_size()
        rows = wrap_rows(escape_controls(text).expandtabs(), columns)[-max(1, lines - 1) :]
        self._write("\n".join(rows))
        self._rows = len(rows) - 1

    def finish(self, text: str) -> None:
        """Write the text that stays, and a line end."""
        self._write((escape_controls(text) if self._is_terminal else text) + "\n")
        self._rows = 0

    def _write(self, text: str) -> None:
        back = "\r" + (f"\x1b[{self._rows}A" if self._rows else "") + _CLEAR_BELOW
        self._stream.write((back if self._is_terminal else "") + text)
        self._stream.flush()


def wrap_rows(text: str, columns: int) -> list[str]:
    """Split a text into rows of a terminal; a row is never full, as terminals differ in where the cursor is then."""
    rows = []
    for line in text.split("\n"):
        row, width = "", 0
        for character in line:
            size = _width(character)
            if width + size >= columns and row:
                rows.append(row)
                row, width = "", 0
            row, width = row + character, width + size
        rows.append(row)
    return rows


def _width(character: str) -> int:
    """Return the columns that a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
