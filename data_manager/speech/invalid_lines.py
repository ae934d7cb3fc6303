"""Find invalid lines of transcripts and RTTM files, and let a recipe read the files without them.

lhotse's recipes stop at such a line without its file, or keep the last of two lines with one id. Known formats are
checked before a recipe runs; in all others the line is found from the variables of the function that failed.
"""

import ast
import builtins
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from data_manager.cache import STAMP


class InvalidLine(NamedTuple):
    """Line of a text file, numbered from 1. `is_empty` ones hold nothing, and are always skipped."""

    path: str
    number: int
    text: str
    reason: str
    is_empty: bool = False

    def __str__(self) -> str:
        """Return file, line and reason."""
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return f"{self.path}:{self.number}: {self.reason}: {shown!r}"


_TRANSCRIPTS: dict[str, tuple[str, str | None, int]] = {
    "aidatatang_200zh": ("aidatatang_200zh/transcript/*.txt", None, 2),
    "aishell": ("data_aishell/transcript/*.txt", None, 2),
    "librispeech": ("*/*/*/*.trans.txt", None, 2),
    "libritts": ("*/*/*/*.trans.tsv", "\t", 3),
    "librittsr": ("*/*/*/*.trans.tsv", "\t", 3),
    "ljspeech": ("metadata.csv", "|", 3),
}
"""Transcripts with one line for each id: glob pattern, separator (None: white space) and number of fields."""


_BINARY = (".flac", ".wav", ".sph", ".mp3", ".ogg", ".opus", ".m4a", ".gz", ".tgz", ".zip", ".bz2", ".tar", ".xz")


_LARGEST = 1 << 26


def find_invalid_lines(recipe: str, root: Path, parts: Iterable[str] | None = None) -> list[InvalidLine]:
    """Return the invalid lines of the corpus in `root`: of transcripts of a known format and of RTTM files.

    `parts` are the folders that are prepared, for a corpus in parts.
    """
    found: list[InvalidLine] = []
    if recipe in _TRANSCRIPTS:
        pattern, separator, fields = _TRANSCRIPTS[recipe]
        has_parts = pattern.startswith("*/")
        patterns = [f"{part}{pattern[1:]}" for part in parts] if parts and has_parts else [pattern]
        seen: dict[str, dict[str, str]] = {}  # each part may have the ids of another
        for path in sorted(path for each in patterns for path in root.glob(each)):
            part = path.relative_to(root).parts[0] if has_parts else ""
            found += _check_transcript(path, separator, fields, seen.setdefault(part, {}))
    for path in sorted(root.rglob("*.rttm")):
        found += _check_rttm(path)
    return found


def _check_transcript(path: Path, separator: str | None, fields: int, seen: dict[str, str]) -> Iterator[InvalidLine]:
    for number, line in _numbered(path):
        text = line.strip()
        given = text.split(separator, fields - 1 if separator is None else -1) if text else []
        if not text:
            yield InvalidLine(str(path), number, text, "empty line", is_empty=True)
        elif len(given) < 2 or not any(field.strip() for field in given[1:]):
            yield InvalidLine(str(path), number, text, "no words after the id")
        elif len(given) != fields:
            yield InvalidLine(str(path), number, text, f"{len(given)} fields instead of {fields}")
        elif given[0] in seen:
            yield InvalidLine(str(path), number, text, f"the id {given[0]!r} is at {seen[given[0]]} already")
        else:
            seen[given[0]] = f"{path}:{number}"


def _check_rttm(path: Path) -> Iterator[InvalidLine]:
    """Check the turns of an RTTM file: SPEAKER, file, channel, start [s], duration [s], ..., speaker, ..."""
    for number, line in _numbered(path):
        fields = line.split()
        if not fields:
            yield InvalidLine(str(path), number, "", "empty line", is_empty=True)
        elif fields[0] == "SPEAKER":
            reason = rttm_fault(fields)
            if reason is not None:
                yield InvalidLine(str(path), number, line.strip(), reason)
            elif float(fields[4]) == 0:
                yield InvalidLine(str(path), number, line.strip(), "a turn of 0 s", is_empty=True)


def rttm_fault(fields: list[str]) -> str | None:
    """Return the fault in the fields of a turn of an RTTM file; None for a valid turn."""
    if len(fields) < 8:
        return f"a turn has 10 fields, and this line has {len(fields)}"
    for what, value in (("start", fields[3]), ("duration", fields[4])):
        try:
            seconds = float(value)
        except ValueError:
            return f"the {what} {value!r} is not a number"
        if not math.isfinite(seconds) or seconds < 0:
            return f"the {what} {value!r} is not a number of seconds"
    return None


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from enumerate(file, start=1)


# Find the line at which a recipe failed.


def failed_line(error: BaseException, roots: Iterable[Path]) -> InvalidLine | None:
    """Return the line that a recipe was reading when it raised `error`, or the second line with a duplicate id."""
    if isinstance(error, OSError):
        return None
    frames = list(_recipe_frames(error))
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for frame in frames:
        if (line := _duplicate_line(frame.f_locals, roots)) is not None:
            return line
    for frame in frames:
        texts = {name: value.strip() for name, value in frame.f_locals.items() if isinstance(value, str)}
        files = [path for outer in frames for path in _open_files(outer)]
        lines = [text for name, text in texts.items() if "line" in name or name == "l"]
        found = (
            _find_text(list(texts.values()), files, reason)
            or _find_text(lines, _text_files(roots), reason)  # of a file that was read earlier
            or _find_text(lines, files, reason, is_part=True)  # recipes cut off brackets
        )
        if found is not None:
            return found
    return None


def duplicate_ids(error: BaseException) -> list[str]:
    """Return the ids that lhotse found twice, if it raised `error` because of them."""
    counters = (frame.f_locals.get("ids") for frame in _recipe_frames(error))
    return [str(name) for ids in counters if isinstance(ids, Counter) for name, count in ids.items() if count > 1]


def describe_assertion(error: BaseException) -> str:
    """Describe a failed assertion of lhotse without a message: its condition, the lengths in it, and its line."""
    frame = next(_recipe_frames(error), None)
    if frame is None:
        return "an assertion in lhotse failed"
    path, line = frame.f_code.co_filename, _failed_at(error)
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    test = next((node.test for node in asserts if node.lineno <= line <= (node.end_lineno or line)), None)
    if test is None:
        return f"an assertion in lhotse failed ({os.path.basename(path)}:{line})"
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    sized = {name: frame.f_locals[name] for name in sorted(names) if hasattr(frame.f_locals.get(name), "__len__")}
    values = "".join(f", and len({name}) is {len(value)}" for name, value in sized.items())
    return f"lhotse expects {ast.unparse(test)}{values} ({os.path.basename(path)}:{line})"


def _recipe_frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of lhotse's functions in which `error` was raised, the innermost first."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if f"{os.sep}lhotse{os.sep}" in trace.tb_frame.f_code.co_filename:
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(frames)


def _failed_at(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if f"{os.sep}lhotse{os.sep}" in trace.tb_frame.f_code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _open_files(frame: FrameType) -> Iterator[str]:
    """Yield the text files that the variables of a function refer to."""
    for value in frame.f_locals.values():
        name = getattr(value, "name", None) if isinstance(value, io.TextIOBase) else value
        if isinstance(name, str | os.PathLike) and os.path.isfile(name) and _is_text(os.fspath(name)):
            yield os.fspath(name)


def _text_files(roots: Iterable[Path]) -> Iterator[str]:
    for root in roots:
        for folder, folders, names in os.walk(root):
            if STAMP in names:
                folders.clear()
                continue
            yield from filter(_is_text, (os.path.join(folder, name) for name in sorted(names)))


def _is_text(path: str) -> bool:
    return not path.lower().endswith(_BINARY) and os.path.getsize(path) < _LARGEST


def _find_text(texts: list[str], paths: Iterable[str], reason: str, *, is_part: bool = False) -> InvalidLine | None:
    """Return the first line that is one of `texts`, or contains one."""
    sought = set(filter(None, texts))
    for path in dict.fromkeys(paths) if sought else ():
        for number, line in _numbered(Path(path)):
            if line.strip() in sought or (is_part and any(text in line for text in sought)):
                return InvalidLine(path, number, line.strip(), reason)
    return None


def _duplicate_line(variables: Mapping[str, Any], roots: Iterable[Path]) -> InvalidLine | None:
    """Return the second line that begins with an id that lhotse's validation has counted twice."""
    ids = variables.get("ids")
    twice = {str(name) for name, count in ids.items() if count > 1} if isinstance(ids, Counter) else set()
    for path in _text_files(roots) if twice else ():
        seen: dict[str, int] = {}
        for number, line in _numbered(Path(path)):
            name = next(iter(line.replace("|", " ").replace(",", " ").split()), "")
            if name in twice and name in seen:
                reason = f"the id {name!r} is in line {seen[name]} already"
                return InvalidLine(path, number, line.strip(), reason)
            seen[name] = number
    return None


# Let a recipe read its files without the invalid lines.


@contextmanager
def skip_lines(lines: Iterable[InvalidLine]) -> Iterator[None]:
    """Hide lines from everything that opens their files for reading as text."""
    hidden: dict[str, set[int]] = {}
    for line in lines:
        hidden.setdefault(os.path.realpath(line.path), set()).add(line.number)
    if not hidden:
        yield
        return
    open_file, open_path = builtins.open, Path.open

    def read(opened: Any, file: Any) -> Any:
        is_text = isinstance(opened, io.TextIOWrapper) and opened.readable() and not opened.writable()
        numbers = hidden.get(os.path.realpath(file)) if is_text and isinstance(file, str | os.PathLike) else None
        if numbers is None:
            return opened
        with opened:
            return io.StringIO("".join(text for number, text in enumerate(opened, 1) if number not in numbers))

    setattr(builtins, "open", lambda file, *given, **more: read(open_file(file, *given, **more), file))  # noqa: B010
    setattr(Path, "open", lambda path, *given, **more: read(open_path(path, *given, **more), path))  # noqa: B010
    try:
        yield
    finally:
        setattr(builtins, "open", open_file)  # noqa: B010
        setattr(Path, "open", open_path)  # noqa: B010
