"""Read a configuration file with its base files and `--set` overrides as one tree."""

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.errors import (
    UNREADABLE,
    ConfigError,
    ConfigFileError,
    ConfigSyntaxError,
    ConfigValueError,
    Place,
    Problem,
    escape_line,
    fail,
)
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.overrides import apply_override
from model_factory.yaml_config.schema_version import remove_version_from_tree

MAX_BYTES = 1_000_000
_SECONDS = 2.0
"""Time without a byte after which a pipe that is read is reported."""
_INHERITED = (("/", "dev"), ("/", "proc"))
"""Folders of pipes that were opened before this process began, so that one without a writer is at its end."""
MAX_FILES = 50
"""Files that a configuration may extend, directly and indirectly."""


@dataclass(frozen=True)
class Document:
    """Tree of a file, whose root is a mapping, and the problems that did not stop reading."""

    root: Node
    problems: tuple[Problem, ...] = ()


def read_document(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Document:
    """Read `path` and the files it `extends`, and apply the `a.b=value` overrides in order.

    Raises ConfigFileError if a file cannot be read, ConfigSyntaxError if it is not YAML, ConfigValueError if an override
    names an impossible key.
    """
    reader = _Reader()
    root = reader.read(Path(path), Place(str(path)), ())
    for option in overrides:
        try:
            root, problems = apply_override(root, option)
            reader.problems += problems
        except ConfigError as error:
            reader.problems += error.problems
    root, problems = remove_version_from_tree(root)
    return Document(root, (*reader.problems, *problems))


def read_text(path: Path, place: Place) -> str:
    """Return the text of a UTF-8 file of at most MAX_BYTES; `place` is the position that names it."""
    try:
        raw, size = _read_pipe(path) if _is_pipe(path) else _read_file(path)
    except IsADirectoryError:
        raise _unreadable(place, f"{path} is a folder, not a file") from None
    except FileNotFoundError:
        near = _near_name(path, place)
        raise _unreadable(place, f"no such file: {path}", f"did you mean {near}?" if near else None) from None
    except OSError as error:
        raise _unreadable(place, f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _unreadable(place, f"{str(path)!r} cannot be a file's name") from None
    if len(raw) > MAX_BYTES:
        raise _unreadable(place, f"{path} has {size / 1e6:.1f} MB, and a configuration at most 1 MB")
    return _decode(raw, str(path))


def _read_file(path: Path) -> tuple[bytes, int]:
    """Return the first bytes of a file, at most one more than MAX_BYTES, and its size."""
    with path.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
        return raw, max(os.fstat(stream.fileno()).st_size, len(raw))


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _read_pipe(path: Path) -> tuple[bytes, int]:
    """Read a pipe such as /dev/stdin until its writers close it; return its first bytes and their number.

    Raises OSError if nothing has opened it for writing after _SECONDS; prints a note while a writer writes nothing.
    """
    raw, waited, is_noted = b"", 0.0, False
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while len(raw) <= MAX_BYTES:
            try:
                part = os.read(handle, MAX_BYTES + 1 - len(raw))
            except BlockingIOError:  # there is a writer, which has written nothing yet
                if not select.select([handle], [], [], _SECONDS)[0] and not is_noted:
                    print(escape_line(f"{path}: waiting for the pipe's writer"), file=sys.stderr)
                    is_noted = True
                continue
            raw += part
            if not part and (raw or is_noted or path.parts[:2] in _INHERITED):
                break
            if not part:
                if waited >= _SECONDS:
                    raise OSError(errno.EPIPE, "it is a pipe, and nothing writes to it")
                time.sleep(_SECONDS / 20)
                waited += _SECONDS / 20
    finally:
        os.close(handle)
    return raw, len(raw)


def _decode(raw: bytes, file: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        message = "the file is UTF-16, by its byte order mark"
        raise fail(ConfigSyntaxError, Place(file, 1, 1), message, code="bom", fix="save it as UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")  # YAML 1.2 allows the byte order mark of UTF-8
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        byte = raw[error.start]
        message = f"byte 0x{byte:02x} is not UTF-8 (in Latin-1 it is {chr(byte)!r})"
        raise fail(
            ConfigFileError, Place(file, line, column), message, code=UNREADABLE, fix="save it as UTF-8"
        ) from None


def _unreadable(place: Place, message: str, fix: str | None = None) -> ConfigError:
    return fail(ConfigFileError, place, message, code=UNREADABLE, fix=fix)


def _near_name(path: Path, place: Place) -> str | None:
    from difflib import get_close_matches

    try:
        names = [n for n in os.listdir(path.parent) if n.endswith((".yml", ".yaml")) and n != Path(place.file).name]
    except OSError:
        return None
    match = get_close_matches(path.name, names, n=1)
    return str(path.parent / match[0]) if match else None


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.files = 0

    def read(self, path: Path, asked_at: Place, chain: tuple[Path, ...]) -> Node:
        """Return the tree of `path` merged over the trees that it extends; `chain` holds the files that led here."""
        if chain and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise _unreadable(asked_at, f"{path} is a device or a pipe, and extends takes files")  # it may never end
        text = read_text(path, asked_at)
        real = Path(os.path.realpath(path))
        if real in chain:
            loop = " -> ".join(file.name for file in (*chain[chain.index(real) :], real))
            raise fail(ConfigValueError, asked_at, f"files extend each other in a loop: {loop}", code="extends")
        self.files += 1
        if self.files > MAX_FILES:
            raise fail(ConfigValueError, asked_at, f"more than {MAX_FILES} files to extend", code="extends")
        root, problems = compose(text, str(path))
        self.problems += problems
        if root.value is None:
            raise fail(ConfigSyntaxError, Place(str(path), 1, 1), "the file is empty", code="empty")
        if not isinstance(root.value, dict):
            message = f"the file holds {root.kind}, and a configuration is a mapping of sections"
            raise fail(ConfigSyntaxError, root.place, message, code="type", fix="begin with 'model:' or 'datasets:'")
        own = root.without("extends")
        base: Node | None = None
        for name in self.bases(root.child("extends")):
            parent = self.read(path.parent / str(name.value), name.place, (*chain, real))
            base = base.merged(parent) if base else parent
        return replace(base.merged(own), place=own.place) if base else own

    def bases(self, extends: Node | None) -> list[Node]:
        """Return the file names of `extends`; anything else is a problem."""
        if extends is None:
            return []
        names = extends.value if isinstance(extends.value, list) else [extends]
        good = [name for name in names if isinstance(name.value, str) and name.value]
        if len(good) < len(names) or not names:
            message = "extends takes a file's name or a list of them, relative to this file"
            self.problems.append(Problem(extends.report_place, "extends", "type", message))
        return good
