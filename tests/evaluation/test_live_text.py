"""Text on a terminal that is drawn again: what is left on the screen, by a small terminal."""

import io
import os
import re

import pytest

from model_factory.cli import live_text
from model_factory.cli.live_text import LiveText, wrap_rows

COLUMNS, LINES = 8, 4
_TOKEN = re.compile(r"\x1b\[(\d*)([A-Z])|.", re.DOTALL)


class Screen:
    """Terminal of `COLUMNS`: rows of text, and a cursor; what scrolls off the top is kept in `rows`, out of reach."""

    def __init__(self) -> None:
        self.rows, self.row, self.column = [""], 0, 0

    def write(self, text: str) -> None:
        for token in _TOKEN.finditer(text):
            if token[2] == "A":
                self.row = max(self.row - int(token[1]), len(self.rows) - LINES, 0)
            elif token[2] == "J":
                self.rows[self.row :] = [self.rows[self.row][: self.column]]
            elif token[0] == "\r":
                self.column = 0
            elif token[0] == "\n" or self.column == COLUMNS:
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            if token[0] >= " ":
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + token[0] + line[self.column + 1 :]
                self.column += 1


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(live_text.shutil, "get_terminal_size", lambda: os.terminal_size((COLUMNS, LINES)))
    return io.StringIO()


@pytest.mark.parametrize(
    "shown",
    [
        ["____", "a__d", "abcd"],
        ["________________", "ab", "abcdefghijkl"],
        ["a\n____\nb", "a\n\nb", ""],
        ["_" * 70, "_" * 60, "x"],
        ["", "______", "one two three four five six seven eight nine"],
    ],
)
def test_only_the_last_text_stays(terminal, shown):
    terminal.write("> hi\n")
    live = LiveText(terminal, is_terminal=True)
    for text in shown[:-1]:
        live.show(text)
    live.finish(shown[-1])
    live.show("_")
    live.finish("next")
    screen, expected = Screen(), Screen()
    screen.write(terminal.getvalue())
    expected.write(f"> hi\n{shown[-1]}\nnext\n")
    assert screen.rows == expected.rows


def test_controls_of_a_text_do_not_reach_the_terminal(terminal):
    live = LiveText(terminal, is_terminal=True)
    live.show("a\x1b[2Jb")
    live.finish("\x1b]0;title\x07")
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\x1b]" not in terminal.getvalue()


def test_a_pipe_gets_the_text_alone(terminal):
    live = LiveText(terminal, is_terminal=False)
    live.show("____")
    live.finish("done\x1b")
    assert terminal.getvalue() == "done\x1b\n"


def test_rows_are_counted_in_columns():
    assert wrap_rows("abcdefgh\nij", 8) == ["abcdefg", "h", "ij"]
    assert wrap_rows("漢字漢字", 8) == ["漢字漢", "字"]
    assert wrap_rows("e\u0301" * 7, 8) == ["e\u0301" * 7]
