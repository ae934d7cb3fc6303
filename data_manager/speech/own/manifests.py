"""Read manifests of lhotse: each line is checked, and its audio is found, before lhotse builds a cut of it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.documents import Invalid
from data_manager.errors import DataError
from data_manager.paths import find_paths
from data_manager.speech.manifests import split_cuts
from data_manager.speech.own.files import SKIP, audio_base, audio_path, check_command
from data_manager.speech.own.types import CutsDatasetConfig, Manifests
from data_manager.text.tables import json_rows

_SOURCE = {"type", "channels", "source"}
"""Keys of an audio source in a manifest."""


class ManifestReader:
    """Reader of one split; `files`, `audio` and `notes` collect what it reads, finds and says."""

    def __init__(self, config: CutsDatasetConfig, invalid: Invalid) -> None:
        self.config, self.invalid = config, invalid
        self.files: list[Path] = []
        self.audio: list[str] = []
        self.notes: list[str] = []

    def read(self, split: str) -> Any:
        """Return the cuts of a split; raise DataError."""
        from lhotse import CutSet, RecordingSet, SupervisionSet

        given = self.config.data_files[split]
        if isinstance(given, Manifests):
            recordings = self._items(given.recordings, ("Recording",))
            listed = {item.id: item for item, _ in recordings}
            supervisions = self._fitting(self._items(given.supervisions, ("SupervisionSegment",)), listed)
            manifests = {
                "recordings": RecordingSet.from_recordings(listed.values()),
                "supervisions": SupervisionSet.from_segments(supervisions),
            }
            return self._cuts_of(manifests, split)
        items = self._items(given, ("MonoCut", "MultiCut", "MixedCut", "Recording"))
        kinds = {type(item).__name__ == "Recording" for item, _ in items}
        if len(kinds) > 1:
            raise DataError(f"{self.files[-1]} mixes recordings and cuts; write them to two manifests")
        if True in kinds:
            return self._cuts_of({"recordings": RecordingSet.from_recordings(item for item, _ in items)}, split)
        return CutSet.from_cuts(item for item, _ in items)

    def _cuts_of(self, manifests: Mapping[str, Any], split: str) -> Any:
        return next(iter(dict(split_cuts(manifests, self.notes, split)).values()), ())

    def _fitting(self, segments: list[tuple[Any, str]], recordings: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the segments that lie in a recording, at least in part."""
        for segment, place in segments:
            recording = recordings.get(segment.recording_id)
            if recording is None:
                self._wrong(place, "unknown recording", f"there is no recording {segment.recording_id!r}")
            elif segment.start >= recording.duration or segment.duration <= 0 or segment.start < 0:
                detail = f"the segment {segment.id!r} lies outside of its recording of {recording.duration:g} s"
                self._wrong(place, "segment outside of its recording", detail)
            else:
                yield segment

    def _wrong(self, place: str, reason: str, detail: str) -> None:
        self.invalid(place, reason, f"{detail}; {SKIP}")

    def _items(self, given: str, kinds: tuple[str, ...]) -> list[tuple[Any, str]]:
        """Read the items of a manifest with their places; each must be of one of `kinds`, with a unique id."""
        files = find_paths(given, self.config, "the manifest of data_files")
        self.files += files
        found: dict[str, tuple[Any, str]] = {}
        for path in files:
            base = audio_base(self.config, path)
            for number, row in json_rows(path, self.invalid):
                place = f"{path}:{number}"
                item = self._item(dict(row), place, base, kinds)
                if item is not None and item.id in found:
                    self._wrong(place, "double id", f"the id {item.id!r} is at {found[item.id][1]} already")
                elif item is not None:
                    found[item.id] = item, place
        return list(found.values())

    def _item(self, row: dict[str, Any], place: str, base: Path, kinds: tuple[str, ...]) -> Any:
        """Return what one line describes; None if it is wrong and lines are skipped."""
        from lhotse.qa import validate
        from lhotse.serialization import deserialize_item

        try:
            audio = list(self._resolve(row, place, base))
        except DataError as error:
            if "allow_commands" in str(error):
                raise
            self._wrong(place, "wrong audio path", str(error).removeprefix(f"{place}: "))
            return None
        try:
            item = deserialize_item(row)
            validate(item)
        except Exception as error:  # lhotse raises many types for missing, unknown and wrong keys
            detail = f"lhotse cannot read this line: {type(error).__name__}: {error}"
            self._wrong(place, "not an item of a manifest", detail)
            return None
        if type(item).__name__ not in kinds:
            self._wrong(place, "wrong kind", f"must be a {' or '.join(kinds)}; got a {type(item).__name__}")
            return None
        self.audio += audio
        return item

    def _resolve(self, node: Any, place: str, base: Path) -> Iterator[str]:
        """Write full paths into the audio sources at any depth of a line, those of transforms included; yield them.

        Raise DataError for a command that is not allowed, a missing file, and other kinds of sources.
        """
        if isinstance(node, list):
            for child in node:
                yield from self._resolve(child, place, base)
        if not isinstance(node, dict):
            return
        kind, source = node.get("type"), node.get("source")
        if set(node) >= _SOURCE and isinstance(source, str):
            if kind == "command":
                check_command(source, place, allowed=self.config.allow_commands)
            elif kind == "file":
                node["source"] = audio_path(source, base, place)
                yield node["source"]
            else:
                raise DataError(f"{place}: audio of type {kind!r} is not read; save it to a file")
        elif "storage_path" in node:
            storage = str(node.get("storage_type"))
            if storage.startswith("memory") or "url" in storage or "kaldi" in storage:
                raise DataError(f"{place}: stored features of type {storage!r} are not read; leave them out")
            node["storage_path"] = _inside(str(node["storage_path"]), base, place)
        for child in node.values():
            yield from self._resolve(child, place, base)


def _inside(given: str, base: Path, place: str) -> str:
    """Return the full path of stored features, a file or a folder; raise DataError if it is not there."""
    full = os.path.normpath(base / given)
    if not os.path.exists(full) or not (os.path.isabs(given) or Path(full).is_relative_to(os.path.normpath(base))):
        raise DataError(f"{place}: there are no stored features {given!r} in {base}")
    return full
