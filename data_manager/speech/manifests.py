"""Write and read the cut manifests of a prepared corpus, one file per split."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from data_manager.cache import STAMP, Make, PreparedFolder, discard, prepared_folder
from data_manager.errors import DataError

WHOLE = "all"
"""Name of the only split of a corpus that its recipe does not split."""


_CUTS = ("cuts", "cutset")


_ROUNDING = 0.01
"""Seconds by which a segment may exceed its recording, because of rounded times."""


_BEGIN, _END = "cuts_", ".jsonl.gz"


def split_cuts(manifests: Any, notes: list[str], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every split in a recipe's result as cuts: `{part: {"recordings", "supervisions"}}` nested to any depth.

    A few recipes return the two as a pair, or cuts. Splits without recordings, and results that are not splits, such as
    a pair of cuts for verification, are skipped and logged in `notes`.
    """
    from lhotse import CutSet

    split = name or WHOLE
    if _is_pair(manifests):
        manifests = dict(zip(("recordings", "supervisions"), manifests, strict=True))
    if isinstance(manifests, CutSet):
        yield split, manifests
    elif any(key in manifests for key in _CUTS):
        yield split, next(manifests[key] for key in _CUTS if key in manifests)
    else:
        if "recordings" in manifests:
            yield from _cut_recordings(split, manifests["recordings"], manifests.get("supervisions"), notes)
        for part, inner in manifests.items():
            if part in ("recordings", "supervisions"):
                continue
            if isinstance(inner, Mapping | CutSet) or _is_pair(inner):
                yield from split_cuts(inner, notes, f"{name}-{part}" if name else str(part))
            else:
                notes.append(f"{name or 'the recipe'} also returns {part} ({type(inner).__name__}), which is skipped")


def _is_pair(manifests: Any) -> bool:
    """Return True for a pair of recordings and supervisions."""
    from lhotse import RecordingSet

    return isinstance(manifests, tuple) and len(manifests) == 2 and isinstance(manifests[0], RecordingSet)


@contextmanager
def named_lost_segments() -> Iterator[None]:
    """Let lhotse's `fix_manifests`, which recipes call, name the segments that it removes or shortens.

    It also removes those that begin exactly at the end, of which it would make segments of no length.
    """
    module: Any = import_module("lhotse.qa")
    trim = module.trim_supervisions_to_recordings

    def named(recordings: Any, supervisions: Any, verbose: bool = True) -> Any:
        listed = list(supervisions)
        ends = {recording.id: recording.duration for recording in recordings}
        for text in describe_lost_segments(listed, ends):
            logging.warning("%s", text)
        return trim(recordings, [s for s in listed if s.start < ends[s.recording_id]], verbose=False)

    module.trim_supervisions_to_recordings = named
    try:
        yield
    finally:
        module.trim_supervisions_to_recordings = trim


def describe_lost_segments(segments: Iterable[Any], ends: Mapping[str, float]) -> list[str]:
    """Describe and count the segments that begin at or after the end of their recording, or extend past it.

    `ends` maps recordings to their lengths in seconds.
    """
    timed = [(s.id, s.start - ends[s.recording_id], s.end - ends[s.recording_id]) for s in segments]
    behind = [name for name, start, _ in timed if start >= 0]
    past = [name for name, start, end in timed if start < 0 and end > _ROUNDING]
    return [
        f"{len(names):,} segments {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in (
            (behind, "begin after the end of their recording and are lost"),
            (past, "extend past the end of their recording and are cut there"),
        )
        if names
    ]


def _cut_recordings(split: str, recordings: Any, supervisions: Any, notes: list[str]) -> Iterator[tuple[str, Any]]:
    from lhotse import CutSet

    if len(recordings) == 0:
        notes.append(f"split {split} has no recordings and is skipped")
    else:
        ends = {recording.id: recording.duration for recording in recordings}
        known = [s for s in supervisions or () if s.recording_id in ends]
        notes += (f"{split}: {text}" for text in describe_lost_segments(known, ends))
        yield split, _sort_by_recording(CutSet.from_manifests(recordings, supervisions))


def _sort_by_recording(cuts: Any) -> Any:
    """Name and sort whole-recording cuts by recording id: recipes list files in file system order."""
    from lhotse import CutSet

    named = [cut.with_id(cut.recording_id) for cut in cuts]
    return CutSet.from_cuts(sorted(named, key=lambda cut: cut.id))


def write_cuts(folder: Path, split: str, cuts: Any, *, final: Path) -> int:
    """Write the cuts of a split and return their number; audio paths in `folder` are rewritten to `final`."""
    from lhotse import CutSet

    moved = CutSet.from_cuts(_relocate_audio(cut, str(folder), str(final)) for cut in cuts)
    moved.to_file(folder / f"{_BEGIN}{split.replace('/', '-')}{_END}")
    return len(moved)


def read_cuts(folder: Path) -> dict[str, Any]:
    """Read a folder into `{split: CutSet}` in memory; raise DataError for an unreadable file."""
    from lhotse import CutSet

    found = {}
    for path in sorted(folder.glob(f"{_BEGIN}*{_END}")):
        try:
            found[path.name.removeprefix(_BEGIN).removesuffix(_END)] = CutSet.from_file(path).to_eager()
        except Exception as error:  # gzip, JSON and lhotse raise different errors for a damaged file
            raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return found


def load_prepared_cuts(
    parent: Path, inputs: Mapping[str, Any], make: Make, prefix: str = ""
) -> tuple[PreparedFolder, dict[str, Any]]:
    """Return a prepared folder and its cuts; rebuild it once if its cuts are unreadable. Raise DataError."""
    folder = prepared_folder(parent, inputs, make, prefix)
    try:
        return folder, read_cuts(folder.path)
    except DataError as error:
        discard(folder, error)
    folder = prepared_folder(parent, inputs, make, prefix)
    return folder, read_cuts(folder.path)


def _relocate_audio(cut: Any, old: str, new: str) -> Any:
    recording = getattr(cut, "recording", None)
    if recording is None or not any(str(source.source).startswith(old) for source in recording.sources):
        return cut
    sources = [
        replace(source, source=new + source.source[len(old) :]) if str(source.source).startswith(old) else source
        for source in recording.sources
    ]
    cut.recording = replace(recording, sources=sources)
    return cut


# Detect changed files by their names, sizes and modification times, without reading them.


def fingerprint(folder: Path) -> dict[str, int | str]:
    """Return count, total bytes and a hash of names, sizes and times (ns) of the files below a folder, or of one file.

    Skips prepared data stored inside a corpus, files whose names begin with a dot, and broken links.
    """
    digest = sha256()
    count = size = 0
    for path in _list_files(os.path.abspath(folder)):
        status = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        count, size = count + 1, size + status.st_size
    return {"files": count, "bytes": size, "hash": digest.hexdigest()[:16]}


def _list_files(root_path: str) -> list[str]:
    """List the paths of all files, sorted."""
    if os.path.isfile(root_path):
        return [root_path]
    found: list[str] = []
    for root, folders, names in os.walk(root_path):
        if STAMP in names:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(root, name) for name in names if not name.startswith(".")]
        found += filter(os.path.exists, paths)
    return sorted(found)
