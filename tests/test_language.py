"""Language: no file of the checkout has a refused phrase, and the check finds each phrase and nothing else."""

import re
from pathlib import Path

import pytest

from tools.language import FIRST_WORDS, PHRASES, check_code, check_comments, check_page, check_project, refused

PHRASE = r"as it stands"
SAMPLES = r"""
the value is told here
told apart by its name
as the headers tell
a report says of a model that it is small
the law of the clean token
a token from the law
a default stands in the file
a name stands for a registry entry
an option is laid on the file
the step behind it
a comment on the way on
the rows are drawn in turn of their length
one of so many rows
a model of one's own
a source of your own
a file of its own.
a path is none
a text of none
a report of what is none
by default there is none
a package that knows no torch
a comment on who pays
rows are dropped without a word
training goes on from a checkpoint
a file as it stands
a revision stays what it is
an evaluation that nobody asked for
a file cut under our feet
a key comes to nothing
a report on what became of a run
the wing imports torch
a package a floor above
""".strip().split("\n")
"""One sample for each phrase of the table, in its order; raw strings are not checked."""
PLAIN = r"""
bytes of GPU memory
changed in place, or in place of a copy
every loss is finite
lengths follow a power law
by the law of large numbers and the law of total variance
True if the value is None, and a text of None
the prompt `is told` and ``the law of`` are code
the user wrote "a file as it stands"
the option {what is none} is a field
key_is_none, of_none and is_told_as are identifiers
tokens of its own block, and of its own data
a stand-in for the missing part
none of the files is missing; use rotary or none
a proxy behind a firewall
the key is `x` none
""".strip().split("\n")


def _phrases(text: str) -> list[str]:
    return [phrase for _, phrase, _ in refused(text)]


def test_language_of_the_checkout() -> None:
    assert [str(finding) for finding in check_project()] == []


@pytest.mark.parametrize(("phrase", "sample"), list(zip(PHRASES, SAMPLES, strict=True)))
def test_language_finds_each_phrase(phrase: str, sample: str) -> None:
    assert len(_phrases(sample)) == 1
    assert re.search(phrase, sample)
    assert _phrases(sample.replace(" ", "\n    ")) == _phrases(sample)


@pytest.mark.parametrize("sample", PLAIN)
def test_language_accepts_plain_english(sample: str) -> None:
    assert _phrases(sample) == []


def _lines(code: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.text) for finding in check_code(code, "sample.py")]


@pytest.mark.parametrize("word", FIRST_WORDS)
def test_language_first_word_of_docstrings(word: str) -> None:
    assert _lines(f'"""{word} it returns."""\n') == [(1, word)]
    assert _lines(f'def f():\n    """{word} it returns."""\n') == [(2, word)]
    assert _lines(f'x = 1\n"""{word} x is."""\n') == [(2, word)]
    assert _lines(f"# {word} it returns.\n") == [(1, word)]
    assert _lines(f'def f():\n    """Return x, {word.lower()} it is."""\n') == []
    assert _lines(f'text = "{word} it returns."\n') == []


def test_language_reads_strings_comments_and_f_strings() -> None:
    assert _lines('raise ValueError(\n    f"{name} of {kind} stands "\n    "for a model"\n)\n') == [(2, "stands for")]
    assert _lines(f"x = 1  # a file {PHRASE}\n") == [(1, PHRASE)]
    assert _lines("# a file as\n# it stands\n") == [(1, PHRASE)]
    assert _lines('text = f"the path is {position} none"\n') == []
    assert _lines('as_it_stands = {"of none": "as it"}\n') == [], "two words are a key"
    assert _lines(f'match = r"a file {PHRASE}"\n') == [], "a raw string is a regular expression"
    assert _lines(f'def f():\n    r"""Return \\alpha {PHRASE}."""\n') == [(2, PHRASE)]


def test_language_opt_out_is_for_one_line() -> None:
    code = f'a = "{PHRASE}"OPT_OUT\nb = "{PHRASE}"\n'
    assert _lines(code.replace("OPT_OUT", "")) == [(1, PHRASE), (2, PHRASE)]
    assert _lines(code.replace("OPT_OUT", "  # language: ok")) == [(2, PHRASE)]


def test_language_of_pages_and_comments() -> None:
    page = f"A file\n{PHRASE}.\n\n```yaml\nname: {PHRASE}\n```\n\nA file {PHRASE}.\n"
    assert [finding.line for finding in check_page(page, "page.md")] == [2, 8]
    config = f"#!/bin/sh\n# A file {PHRASE}.\nname: {PHRASE}  # {PHRASE}\nkey: a#b {PHRASE}\n"
    assert [finding.line for finding in check_comments(config, "a.yml")] == [2, 3]


def test_language_checks_every_kind_of_file(tmp_path: Path) -> None:
    names = [
        "train.py",
        "model/a/b.py",
        "configs/data/a.yml",
        "scripts/test",
        "docs/how_to/a.md",
        "docs/reference/index.md",
    ]
    for name in (*names, "docs/reference/model.md", "other/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# A file {PHRASE}.\n", encoding="utf-8")
    assert {finding.path for finding in check_project(tmp_path)} == set(names)
