"""Refuse phrases of a private dialect in docstrings, comments, messages and pages.

    python -m tools.language

Only phrases that have no other meaning in this project are listed. Identifiers, keys, code spans (`...`), code blocks and
quoted text of a user are not looked at. A line that needs a listed phrase ends with `language: ok` in a comment.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("model", "data_manager", "model_factory", "tools", "benchmarks", "examples", "tests")
SCRIPTS = ("parse_args.py", "train.py", "generate.py", "evaluate.py", "setup.py")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "benchmarks/*.md",
    "tools/**/*.md",
    "examples/**/*.md",
)

PHRASES = {
    r"(?:is|are|was|were|be|been) (?:not )?told": "is reported, is set, is conditioned on",
    r"told (?:as|apart|twice|once)": "reported as, distinguished",
    r"(?:says|said|say) (?:it )?of itself": "name the subject and the verb",
    r"the laws? of (?!large numbers|total)": "distribution, posterior",
    r"(?:from|by|has|have|in) the laws?\b(?! of large)": "distribution",
    r"stands? in (?!for\b|the way)": "is in",
    r"laid (?:on|over)": "overridden by, applied to",
    r"of (?:one|a user)'s own": "custom",
    r"of your own\b": "custom",
    r"(?:is|are|was|were) (?-i:none)\b(?! of)": "is invalid, is missing",
    r"of (?-i:none)\b": "of no ...",
    r"what is none": "anything invalid",
    r"who pays": "name what is paid: the import, the time",
    r"without a word": "silently",
    r"(?:goes|go|went|going|gone) on (?:from|with)": "resume, continue",
    r"as it stands\b": "unchanged, as written",
    r"nobody asked": "not requested",
    r"under our feet": "while it is open",
    r"(?:comes|come|came) to nothing": "has no effect",
    r"what became of": "the result of",
}
"""Each phrase, as a regular expression, with what is written in its stead."""
FIRST_WORDS = ("What", "Whether", "Those", "Who")
"""First words of a docstring that make it a noun clause."""
OPT_OUT = "language: ok"

_PATTERN = re.compile("|".join(f"(?P<p{i}>\\b{phrase})" for i, phrase in enumerate(PHRASES)), re.IGNORECASE)
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
    """Yield (line offset, phrase, remedy) for each refused phrase of a prose text."""
    plain = _SPANS.sub(lambda found: " " * len(found[0]), prose)
    for found in _PATTERN.finditer(plain):
        yield plain.count("\n", 0, found.start()), found[0], _REMEDIES[int((found.lastgroup or "p0")[1:])]


def check_code(text: str, path: str) -> Iterator[Finding]:
    """Check docstrings, comments, and strings that are prose (three words or more)."""
    lines = text.split("\n")
    for number, prose, is_docstring in _prose(text):
        first = prose.split(None, 1)[0] if prose.split() else ""
        if is_docstring and first in FIRST_WORDS and OPT_OUT not in lines[number - 1]:
            yield Finding(path, number, first, "begin with a verb: Return, Raise, Load")
        for offset, phrase, remedy in refused(prose):
            if OPT_OUT not in lines[number - 1 + offset]:
                yield Finding(path, number + offset, phrase, remedy)


def check_page(text: str, path: str) -> Iterator[Finding]:
    """Check a page of Markdown, its code blocks left out."""
    prose = re.sub(r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S)
    lines = text.split("\n")
    for offset, phrase, remedy in refused(prose):
        if OPT_OUT not in lines[offset]:
            yield Finding(path, offset + 1, phrase, remedy)


def check_project(root: Path = ROOT) -> list[Finding]:
    """Check every file of a checkout; the reference pages are made from the code, which is checked itself."""
    found: list[Finding] = []
    files = [root / name for name in SCRIPTS] + [path for room in CODE for path in sorted((root / room).rglob("*.py"))]
    for path in files:
        found += check_code(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    for path in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        if "reference" not in path.parts:
            found += check_page(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    return found


def _prose(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (first line, text, is a function's or class's docstring) of each docstring, comment and prose string."""
    docstrings = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            docstrings[node.body[0].lineno] = node
    strings = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# "), False
        elif token.type in strings:
            prose = re.sub(r"^[rRbBfFuU]*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", "", token.string)
            is_docstring = token.start[0] in docstrings and token.string.lstrip("rRuU").startswith('"""')
            if is_docstring or len(prose.split()) >= 3:
                yield token.start[0], prose, is_docstring


def main() -> int:
    """Print every finding; return 1 if there is one."""
    found = check_project()
    print("\n".join(map(str, found)))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
