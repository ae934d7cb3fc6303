"""Input files of lines, output files that can be resumed, and the loop between them.

Lines are read in windows of `WINDOW`, and batched by length inside a window, so memory does not grow with the input. The
output has the order of the input: a text is written once those before it are. Beside the output, OUTPUT.progress.json holds
what is done: a hash of the input so far, what decides the texts, and the texts of the window that are not in the output yet.
"""

import hashlib
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO

from data_manager.documents import Invalid, Notes
from data_manager.errors import DataError
from data_manager.text.csv_files import csv_rows
from data_manager.text.files import LONG_LINE, open_binary
from data_manager.text.tables import json_rows
from model_factory.evaluation.data import kind_of_file
from model_factory.evaluation.sampling.lines import LineSampler, Prepared, make_batches
from model_factory.training.errors import FolderInUseError, InputFileError, RunFolderError, UnfitError, WriteError
from model_factory.training.run.atomic_io import write_text
from model_factory.training.run.checkpoints import read_json
from model_factory.yaml_config.errors import escape_line
from model_factory.yaml_config.schema_version import add_version

WINDOW = 512
"""Lines that are read and sorted by length together; part of what decides the batches, so a constant."""
WEIGHTS = "weights"
"""Key of the hash of the run's weights, among what decides the texts."""
_NAMED = 10
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Item:
    """One line of an input, or one recording: its number from 1, its place (file:line), bytes to hash, and its value.

    `problem` says why it cannot be read.
    """

    number: int
    place: str
    key: bytes
    value: Any = None
    problem: str | None = None


def read_lines(path: str) -> Iterator[Item]:
    """Yield the lines of a UTF-8 file, decompressed if it is compressed, or of standard input (`-`); raises InputFileError."""
    name = "<stdin>" if path == "-" else path
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open_binary(Path(path)) as file:
            yield from _lines(file, name)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputFileError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _lines(file: BinaryIO, name: str) -> Iterator[Item]:
    number = 0
    while line := file.readline(LONG_LINE):
        number += 1
        place, key = f"{name}:{number}", line.rstrip(b"\n")
        if len(line) == LONG_LINE and not line.endswith(b"\n"):
            digest = hashlib.sha256(line)
            while rest := file.readline(LONG_LINE):
                digest.update(rest)
                if rest.endswith(b"\n"):
                    break
            problem = f"the line has more than {LONG_LINE:,} bytes; split it"
            yield Item(number, place, digest.digest(), None, problem)
            continue
        data = key.removesuffix(b"\r")
        data = data.removeprefix(_BOM) if number == 1 else data
        try:
            yield Item(number, place, key, data.decode())
        except UnicodeDecodeError as error:
            problem = f"byte 0x{data[error.start]:02x} at column {error.start + 1} is not UTF-8; save the file as UTF-8"
            yield Item(number, place, key, None, problem)


def read_records(path: Path) -> Iterator[Item]:
    """Yield the rows of a JSON or CSV file, mappings of columns; an item's number counts them, its place has the line.

    Raises InputFileError for a file that cannot be read on.
    """
    problems: list[tuple[str, str]] = []
    invalid, number = _Collect(True, Notes(), problems), 0
    try:
        if kind_of_file(path) == "csv":
            rows = csv_rows(path, "\t" if ".tsv" in path.suffixes else ",", (), invalid)
        else:
            rows = json_rows(path, invalid)
        for line, row in chain(rows, [(0, None)]):
            for place, problem in problems:
                number += 1
                yield Item(number, place, problem.encode("utf-8", "surrogatepass"), None, problem)
            problems.clear()
            if row is not None:
                number += 1
                key = json.dumps(row, default=str).encode()
                yield Item(number, f"{path}:{line}", key, dict(row))
    except DataError as error:
        raise InputFileError(str(error)) from error


@dataclass(frozen=True)
class _Collect(Invalid):
    """Handler that collects the places of invalid rows and what is wrong with them."""

    problems: list[tuple[str, str]]

    def __call__(self, place: str, reason: str, detail: str) -> None:
        self.problems.append((place, detail))


@dataclass
class Progress:
    """State of an output: lines written and their size in bytes, texts that wait for those before them, failures.

    `failures` counts the lines without a text, and `failed` has the first of them. `read` is the number of input lines that
    `digest` is over.
    """

    written: int = 0
    size: int = 0
    waiting: dict[int, str] = field(default_factory=dict)
    failures: int = 0
    failed: list[int] = field(default_factory=list)
    read: int = 0
    digest: str = ""

    def count_failure(self, number: int) -> None:
        """Count a line that has no text."""
        self.failures += 1
        self.failed += [number][: _NAMED - len(self.failed)]

    def describe_failures(self) -> str | None:
        """Return a sentence on the lines that have no text; None without such lines."""
        if not self.failures:
            return None
        numbers = ", ".join(map(str, self.failed)) + (", ..." if self.failures > len(self.failed) else "")
        return f"{self.failures:,} of {self.written:,} lines have no text in the output: {numbers}"


class Output:
    """Where the texts go: a file with its progress beside it, or standard output."""

    def __init__(self, stream: IO[Any], progress: Progress, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.stream, self.progress, self.path, self.identity = stream, progress, path, identity

    def add(self, texts: Mapping[int, str]) -> None:
        """Add the texts of a batch by line number; write those whose turn it is, and save the progress."""
        done = self.progress
        done.waiting.update(texts)
        ready = ""
        while (text := done.waiting.pop(done.written + 1, None)) is not None:
            ready += text
            done.written += 1
        if self.path is None:
            self.stream.write(ready)
            self.stream.flush()
            return
        data = ready.encode("utf-8", "surrogatepass")
        try:
            self.stream.write(data)
            self.stream.flush()
            os.fsync(self.stream.fileno())
            done.size += len(data)
            write_text(
                progress_file(self.path), json.dumps(add_version({"identity": dict(self.identity), **vars(done)}))
            )
        except OSError as error:
            raise WriteError(f"{self.path} cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self.path is not None:
            self.stream.close()


def as_one_line(text: str) -> str:
    """Replace line breaks of all kinds by spaces, so that a text is one line of a file."""
    return " ".join(text.splitlines())


def progress_file(path: Path) -> Path:
    """Return the file that holds the progress of an output."""
    return path.with_name(f"{path.name}.progress.json")


def open_output(path: Path | None, identity: Mapping[str, Any], *, resume: bool) -> Output:
    """Open standard output without a path, a new file, or with `resume` one that an earlier call began.

    Raises FolderInUseError for a file that exists, RunFolderError for damaged progress, UnfitError where what decides the
    texts, `identity`, is another than it was, WriteError.
    """
    if path is None:
        return Output(sys.stdout, Progress(), None, identity)
    try:
        if not (resume and path.exists()):
            output = Output(path.open("xb"), Progress(), path, identity)
            output.add({})
            return output
        progress = _read_progress(path, identity)
        file = path.open("r+b")
        file.truncate(progress.size)
        file.seek(progress.size)
        return Output(file, progress, path, identity)
    except FileExistsError as error:
        raise FolderInUseError(f"{path} exists; give another --output, or continue it by --resume") from error
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error}") from error


def _read_progress(path: Path, identity: Mapping[str, Any]) -> Progress:
    place = progress_file(path)
    if not place.is_file():
        raise FolderInUseError(f"{path} exists without {place}, so it cannot be resumed; give another --output")
    try:
        held = read_json(place)
        then = held.pop("identity")
        held["waiting"] = {int(number): text for number, text in held["waiting"].items()}
        progress = Progress(**held)
        is_whole = 0 <= progress.size <= path.stat().st_size
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{place} does not hold the progress of an output: {error}; give another --output"
        ) from error
    if not is_whole:
        raise RunFolderError(f"{path} is shorter than {place} says; it was changed, so give another --output")
    changed = [
        "the weights of the run" if key == WEIGHTS else f"{key} was {then.get(key)!r} and is {value!r}"
        for key, value in identity.items()
        if then.get(key) != value
    ]
    if changed:
        raise UnfitError(
            f"{path} was begun with others: {'; '.join(changed)}; resume with those, or give another --output"
        )
    return progress


@dataclass
class LineWriter:
    """The loop from an input to an output.

    `show` formats a line of the output, with its line end, from its item, what was generated (None for an item that has a
    problem), and the problem; `complain` gets file:line and why a line has no
    text; `track` gets the number of lines that are done; `remark` returns a note on a line that has a text, or None.
    """

    sampler: LineSampler
    output: Output
    show: Callable[[Item, Any, str | None], str]
    batch_size: int
    complain: Callable[[str], object]
    track: Callable[[int], object] = lambda count: None
    remark: Callable[[Any], str | None] = lambda value: None

    def run(self, items: Iterable[Item]) -> None:
        """Write the text of every item, in the order of the input.

        Raises UnfitError where the input is another than the one that the output was begun with.
        """
        done, digest, reader, place = self.output.progress, hashlib.sha256(), iter(items), "the input's end"
        count = 0
        while window := list(islice(reader, WINDOW)):
            for item in window:
                digest.update(item.key + b"\n")
                if item.number == done.read and digest.hexdigest() != done.digest:
                    raise self._other_input(item.place)
            count, place = window[-1].number, window[-1].place
            if len(window) < WINDOW and count < done.read:
                break
            if count > done.written:
                if count > done.read:
                    done.read, done.digest = count, digest.hexdigest()
                self._write_window(window)
        if count < done.read:
            raise self._other_input(place)

    def _write_window(self, window: list[Item]) -> None:
        """Write the texts of a window. Batches do not depend on what is done, so that a resumed output is the same."""
        by_number = {item.number: item for item in window}
        lines: list[Prepared] = []
        ready: dict[int, str] = {}
        for item in window:
            problem = item.problem
            if problem is None:
                if isinstance(item.value, str) and not item.value.strip():
                    ready[item.number] = self.show(item, "", None)
                    continue
                try:
                    lines.append(self.sampler.prepare(item.number, item.value))
                    self._add_remark(item)
                    continue
                except ValueError as error:
                    problem = str(error)
            ready[item.number] = self._show_problem(item, problem)
        self._add(ready)
        for batch in make_batches(lines, self.batch_size):
            if all(self._is_done(line.number) for line in batch):
                self.track(len(batch))
                continue
            found = {line.number: one for line, one in zip(batch, self.sampler.generate(batch), strict=True)}
            shown = {}
            for number, one in found.items():
                item = by_number[number]
                is_bad = isinstance(one, ValueError)
                shown[number] = self._show_problem(item, str(one)) if is_bad else self.show(item, one, None)
            self._add(shown)

    def _show_problem(self, item: Item, problem: str) -> str:
        """Format a line that has no text, and report it once."""
        if not self._is_done(item.number):
            self.complain(f"{escape_line(item.place)}: {escape_line(problem)}")
            self.output.progress.count_failure(item.number)
        return self.show(item, None, problem)

    def _add_remark(self, item: Item) -> None:
        """Report what is odd about a line that has a text."""
        is_text = isinstance(item.value, str | Mapping)
        if is_text and not self._is_done(item.number) and (note := self.remark(item.value)):
            self.complain(f"{escape_line(item.place)}: note: {escape_line(note)}")

    def _add(self, texts: Mapping[int, str]) -> None:
        self.output.add({number: text for number, text in texts.items() if not self._is_done(number)})
        self.track(len(texts))

    def _is_done(self, number: int) -> bool:
        done = self.output.progress
        return number <= done.written or number in done.waiting

    def _other_input(self, place: str) -> UnfitError:
        return UnfitError(
            f"{place}: the lines up to here are others than those that {self.output.path} was begun with; give the same "
            "input, or another --output"
        )
