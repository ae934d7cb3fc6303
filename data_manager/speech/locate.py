"""Locate a speech corpus below corpus_dir: downloaded by lhotse's downloader, or unpacked by hand."""

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from data_manager.paths import full_path
from data_manager.speech.recipes import TARGETS, RecipeSignature, recipe_module

DOWNLOADING = ".downloading"
"""Marker file in corpus_dir/NAME during a download; if it remains, the corpus is incomplete."""


UNPACKED = ".unpacked"
"""File in corpus_dir/NAME with the folder that the downloader returned, relative to corpus_dir/NAME."""


@dataclass(frozen=True)
class Layout:
    """Candidate folders of a corpus below `corpus_dir`, likeliest first, and glob patterns of files that identify it."""

    folders: tuple[str, ...]
    marks: tuple[str, ...]


LAYOUTS = {
    "librispeech": Layout(("librispeech/LibriSpeech", "librispeech", "LibriSpeech"), ("*/*/*/*.trans.txt",)),
    # the downloaders of these return the parent folder, in which their `prepare` finds nothing
    "libritts": Layout(("libritts/LibriTTS", "libritts", "LibriTTS"), ("*/*/*/*.trans.tsv",)),
    "librittsr": Layout(("librittsr/LibriTTS_R", "librittsr", "LibriTTS_R"), ("*/*/*/*.trans.tsv",)),
    "timit": Layout(("timit", "timit/timit", "timit/TIMIT"), ("data/TRAIN", "data/TEST")),
    "voxceleb1": Layout(("voxceleb1", "voxceleb/voxceleb1", "voxceleb"), ("vox1_meta.csv",)),
    "voxceleb2": Layout(("voxceleb2", "voxceleb/voxceleb2", "voxceleb"), ("vox2_meta.csv",)),
    "yesno": Layout(("yesno/waves_yesno", "yesno", "waves_yesno"), ("*.wav",)),
}


_ARCHIVES = (".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".rar", ".part")


def download_marker(name: str, corpus_dir: str) -> Path:
    """Return the path of the file that marks an unfinished download."""
    return full_path(corpus_dir) / name / DOWNLOADING


def store_unpacked_folder(target: Path, returned: object) -> None:
    """Store the folder that a downloader returned, if it lies in `target`; a few downloaders return nothing."""
    (target / UNPACKED).unlink(missing_ok=True)
    if isinstance(returned, str | PurePath):
        folder = full_path(os.fspath(returned))
        if folder.is_relative_to(target):
            (target / UNPACKED).write_text(folder.relative_to(target).as_posix() + "\n", encoding="utf-8")


def candidate_folders(
    recipe: RecipeSignature, corpus_dir: str, arguments: Mapping[str, Any] | None = None
) -> list[Path]:
    """List the folders to search for a corpus, in order; `arguments` are those of its downloader."""
    base = full_path(corpus_dir)
    if recipe.name in LAYOUTS:
        return [base / folder for folder in LAYOUTS[recipe.name].folders]
    root = base / recipe.name
    known = _stored_folder(root)
    if known is None and recipe.download is not None:
        known = unpacked_folder(recipe_module(recipe.name), recipe.download.name, arguments or {})
    unpacked = [root / known] if known is not None and (root / known).is_dir() else []
    return list(dict.fromkeys([*unpacked, root, *_only_folders(root)]))


def find_corpora(recipe: RecipeSignature, corpus_dir: str, arguments: Mapping[str, Any] | None = None) -> list[Path]:
    """List the folders that may be the corpus, likeliest first; empty if it is missing or its download was interrupted.

    There are several only if one contains nothing but the next, so each has all the files.
    """
    if download_marker(recipe.name, corpus_dir).exists():
        return []
    layout = LAYOUTS.get(recipe.name)
    folders = candidate_folders(recipe, corpus_dir, arguments)
    if layout is not None:
        return [path for path in folders if any(_has_files(path, mark) for mark in layout.marks)][:1]
    found = [path for path in folders if _has_files(path, "*")]
    root = full_path(corpus_dir) / recipe.name
    # a folder below the first one is tried only if the downloader does not say where it unpacks
    return found if not found or found[0] == root else found[:1]


def _has_files(folder: Path, mark: str) -> bool:
    """Return True if the folder has files or folders like `mark`; an interrupted download leaves only an archive."""
    return any(path.suffix not in _ARCHIVES and not path.name.startswith(".") for path in folder.glob(mark))


def _stored_folder(root: Path) -> str | None:
    try:
        known = (root / UNPACKED).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return None
    return known if full_path(os.fspath(root / known)).is_relative_to(root) else None


def _only_folders(root: Path) -> Iterator[Path]:
    """Yield the only folder in `root`, beside archives, the only folder in that one, and so on."""
    folder = root
    while folder.is_dir():
        inside = [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix not in _ARCHIVES]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            return
        folder = inside[0]
        yield folder


# Read from a downloader's source which folder it returns: importing lhotse takes a second, and a user may have
# unpacked the archives by hand.


def unpacked_folder(tree: ast.Module, download: str, arguments: Mapping[str, Any]) -> str | None:
    """Return the folder that a downloader returns, relative to its target; None if it returns none, or a computed one.

    Only constants, f-strings and `/` are evaluated, with `arguments` and the parameters' defaults.
    """
    function = next((s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == download), None)
    if function is None:
        return None
    known: dict[str, Any] = {}
    for statement in tree.body:
        _assign(statement, known)
    parameters = function.args.args[len(function.args.args) - len(function.args.defaults) :]
    for parameter, default in zip(parameters, function.args.defaults, strict=True):
        known[parameter.arg] = _evaluate(default, known)
    known.update(arguments)
    known.update(dict.fromkeys(TARGETS, PurePosixPath()))
    found = None
    for statement in _statements(function.body):
        _assign(statement, known)
        if isinstance(statement, ast.Return) and statement.value is not None:
            value = _evaluate(statement.value, known)
            found = value.as_posix() if isinstance(value, PurePosixPath) else found
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, block, []))


def _assign(statement: ast.stmt, known: dict[str, Any]) -> None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        known[statement.targets[0].id] = _evaluate(statement.value, known)


def _evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """Evaluate an expression for a path; None if it is another one."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return known.get(node.id)
        case ast.Call(func=ast.Name(id="Path"), args=[argument]):
            value = _evaluate(argument, known)
            return None if value is None else PurePosixPath(value)
        case ast.BinOp(op=ast.Div()):
            left, right = _evaluate(node.left, known), _evaluate(node.right, known)
            return left / right if isinstance(left, PurePosixPath) and isinstance(right, str) else None
        case ast.JoinedStr():
            parts = [_evaluate(p.value if isinstance(p, ast.FormattedValue) else p, known) for p in node.values]
            return None if None in parts else "".join(map(str, parts))
    return None
