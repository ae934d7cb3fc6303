"""Refuse phrases of a private dialect in docstrings, comments, messages and pages.

    python -m tools.language

Only phrases that have no other meaning in this project are listed. Identifiers, keys, code spans (`...`), code blocks, raw
strings (regular expressions) and quoted text of a user are not checked. A line that needs a listed phrase ends with
`language: ok` in a comment.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "data_manager", "model_factory", "tools", "benchmarks", "examples", "tests")
SCRIPTS = ("parse_args.py", "train.py", "generate.py", "evaluate.py", "setup.py")
COMMENTED = ("configs/**/*.yml", "benchmarks/*.yml", "examples/**/*.yml", "scripts/*", "*.sh")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "benchmarks/*.md",
    "configs/**/*.md",
    "tools/**/*.md",
    "examples/**/*.md",
)

PHRASES = {
    r"(?:is|are|was|were|be|been) (?:not )?told": "is reported, is set, is conditioned on",
    r"told (?:as|apart|twice|once|the|which|how|by)": "reported as, distinguished, conditioned on",
    r"(?:the|their) (?:data|headers?|files?|times) tells?": "name what is read from it",
    r"(?:says|said|say) (?:it )?of (?:itself|them|it|a|an|the|each)": "reports about; name the subject and the verb",
    r"the laws? of(?! large numbers| total)": "distribution, posterior",
    r"(?:from|by|has|have|in) the laws?\b(?! of large)": "distribution",
    r"stands? in(?! for\b| the way)": "is in",
    r"stands? (?:for|beside|behind|there)": "means, is next to, follows",
    r"(?:lay|lays|laid|laying) (?:on|over|out anew)": "overridden by, applied to, reorganised",
    r"behind (?:it|them|which|each|every)": "after, following",
    r"the way on\b": "the next step",
    r"in turn of\b": "in the order of",
    r"(?:of|by|after|with|for|within) so (?:many|much|few|long)": "name the number",
    r"of (?:one|a user)'s own": "custom",
    r"of your own\b": "custom",
    r"of (?:its|their|his|our|my) own(?=\s*(?:[.,;:)]|$))": "custom, separate",
    r"(?:is|are|was|were) (?-i:none)\b(?! of)": "is invalid, is missing",
    r"of (?-i:none)\b": "of no ...",
    r"(?:which|what) is none": "anything invalid",
    r"there (?:is|are|was|were) none": "name the noun: without a ...",
    r"knows? (?:no|nothing|none)": "does not import, does not depend on",
    r"who pays": "name what is paid: the import, the time",
    r"without a word": "silently",
    r"(?:goes|go|went|going|gone) on (?:from|with)": "resume, continue",
    r"as it stands\b": "unchanged, as written",
    r"stays what it is": "does not change",
    r"nobody (?:asked|wrote|set|reads)": "not requested",
    r"under our feet": "while it is open",
    r"(?:comes|come|came) to nothing": "has no effect",
    r"what became of": "the result of",
    r"(?:the|this|each|every|all) (?:wing|room)s?": "package, folder",
    r"a floor (?:above|below|up|down)": "layer",
}
"""Each phrase, as a regular expression (a space is any white space), with what is written instead."""
FIRST_WORDS = ("What", "Whether", "Those", "Who", "Whose", "Which", "How")
"""First words of a docstring or a comment that make it a noun clause."""
OPT_OUT = "language: ok"

_PATTERN = re.compile(
    "|".join(f"(?P<p{i}>\\b{phrase.replace(' ', chr(92) + 's+')}\\b)" for i, phrase in enumerate(PHRASES)),
    re.IGNORECASE,
)
_GAP = "\N{HORIZONTAL ELLIPSIS}"
_FSTRING_START = getattr(tokenize, "FSTRING_START", None)
_FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", None)
_FSTRING_END = getattr(tokenize, "FSTRING_END", None)
"""Tokens of f-strings; up to Python 3.11 an f-string is one STRING, whose fields are skipped as `{...}`."""
_REMEDIES = list(PHRASES.values())
_SPANS = re.compile(r"``.*?``|`[^`\n]*`|\"[^\"\n]*\"|\{[^{}]*\}")


@dataclass(frozen=True)
class Finding:
    """One refused phrase: where it is, the text, and what to write."""

    path: str
    line: int
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}; write: {self.remedy}"


def refused(prose: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line offset, phrase, remedy) for each refused phrase of a prose text; code spans and quotes are skipped."""
    plain = _SPANS.sub(lambda found: re.sub(r"[^\n]", _GAP, found[0]), prose)
    for found in _PATTERN.finditer(plain):
        phrase = " ".join(found[0].split())
        yield plain.count("\n", 0, found.start()), phrase, _REMEDIES[int((found.lastgroup or "p0")[1:])]


def check_code(text: str, path: str) -> Iterator[Finding]:
    """Check docstrings, comments, and strings that are prose (three words or more) of Python code."""
    yield from _check(_prose(text), text, path)


def check_comments(text: str, path: str) -> Iterator[Finding]:
    """Check the comments of a YAML file or of a shell script."""
    lines = [re.search(r"(?:^|\s)#(?!!)(.*)", line) for line in text.split("\n")]
    alone = [(number, found[1].strip()) for number, found in enumerate(lines, 1) if found]
    yield from _check(((number, prose, True) for number, prose in _join_lines(alone)), text, path)


def check_page(text: str, path: str) -> Iterator[Finding]:
    """Check a page of Markdown, its code blocks left out."""
    prose = re.sub(r"^ *```.*?^ *```", lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S)
    yield from _check([(1, prose, False)], text, path)


def check_project(root: Path = ROOT) -> list[Finding]:
    """Check every file of a checkout; generated pages of `docs/reference/` are left out."""
    code = [*SCRIPTS, *(f"{package}/**/*.py" for package in PACKAGES)]
    found: list[Finding] = []
    for check, patterns in ((check_code, code), (check_comments, COMMENTED), (check_page, PAGES)):
        for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
            if path.parent.name != "reference" or path.name == "index.md":
                found += check(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    return found


def _check(pieces: Iterable[tuple[int, str, bool]], text: str, path: str) -> Iterator[Finding]:
    """Check (first line, prose, is a docstring or a comment) of a file with the content `text`."""
    lines = text.split("\n")
    for number, prose, is_sentence in pieces:
        words = prose.split(None, 1)
        if is_sentence and words and words[0] in FIRST_WORDS and OPT_OUT not in lines[number - 1]:
            yield Finding(path, number, words[0], "begin with a verb (Return, Raise, Load) or with a noun")
        for offset, phrase, remedy in refused(prose):
            if OPT_OUT not in lines[number - 1 + offset]:
                yield Finding(path, number + offset, phrase, remedy)


def _prose(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (first line, text, is a docstring or a comment of its own line) of docstrings, comments and prose strings."""
    statements = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    docstrings = {node.lineno for node in statements if isinstance(node.value, ast.Constant)}
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    alone = [(token.start[0], token.string.lstrip("# ")) for token in comments if token.line.lstrip().startswith("#")]
    for number, prose in _join_lines(alone):
        yield number, prose, True
    for token in comments:
        if not token.line.lstrip().startswith("#"):
            yield token.start[0], token.string.lstrip("# "), False
    for number, prose in _strings(tokens, docstrings):
        if number in docstrings or len(prose.split()) >= 3:
            yield number, prose, number in docstrings


def _strings(tokens: list[tokenize.TokenInfo], docstrings: set[int]) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each string; adjacent literals are one text, and raw ones count as docstrings only."""
    pieces: list[tuple[int, str]] = []
    open_prefixes: list[str] = []
    for token in tokens:
        if token.type == _FSTRING_START:
            open_prefixes.append(token.string.lower())
        elif token.type == _FSTRING_END:
            open_prefixes.pop()
        elif token.type == tokenize.STRING:
            prefix, quote, prose = re.split(r"(\"{3}|'{3}|\"|')", token.string, maxsplit=1)
            if "r" not in prefix.lower() or token.start[0] in docstrings:
                pieces.append((token.start[0], prose.removesuffix(quote)))
        elif token.type == _FSTRING_MIDDLE:
            pieces += [(token.start[0], token.string)] if "r" not in open_prefixes[-1] else []
        elif open_prefixes:
            pieces += [(token.start[0], _GAP)] if token.string == "{" else []
        elif token.type not in (tokenize.NL, tokenize.COMMENT):
            yield from _join(pieces)
            pieces = []


def _join(pieces: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of all pieces, with each piece on its line; nothing if there is no piece."""
    if not pieces:
        return
    first, text = pieces[0]
    for number, piece in pieces[1:]:
        text += "\n" * (number - first - text.count("\n")) + piece
    yield first, text


def _join_lines(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each group of consecutive lines."""
    for _, group in groupby(enumerate(lines), lambda item: item[1][0] - item[0]):
        yield from _join([line for _, line in group])


def main() -> int:
    """Print every finding; return 1 if there is one."""
    found = check_project()
    print("\n".join(map(str, found)))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
