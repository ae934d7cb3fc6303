"""Read a user's own lists of recordings: Kaldi folders, tables and RTTM; an invalid line is reported with its place."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_manager.documents import Invalid
from data_manager.errors import DataError
from data_manager.paths import find_path, find_paths
from data_manager.speech.invalid_lines import rttm_fault
from data_manager.speech.own.types import (
    AudioTableDatasetConfig,
    KaldiDatasetConfig,
    OwnSpeechConfig,
    RttmDatasetConfig,
)
from data_manager.text.csv_files import csv_rows, describe_missing_column
from data_manager.text.files import text_lines
from data_manager.text.tables import json_rows

SKIP = "on_invalid: skip leaves such lines out"
_NAME_IT = "; columns names the ones to read, as in columns: {audio: path, text: sentence}"
_AUDIO = (".wav", ".flac", ".sph", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".au")


@dataclass(frozen=True)
class Segment:
    """A part of a recording from `start` to `end` in seconds (None: to its end); `place` is `file:line`."""

    id: str
    start: float
    end: float | None
    text: str | None
    speaker: str | None
    place: str


@dataclass
class Audio:
    """A recording: its path, or a command that writes it, and its segments."""

    id: str
    source: str
    place: str
    is_command: bool = False
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Listing:
    """Recordings of one split, and the files that list them."""

    files: list[Path]
    audio: list[Audio]


def audio_base(config: OwnSpeechConfig, listing: Path) -> Path:
    """Return the folder of relative audio paths in the file `listing`; raise DataError."""
    return listing.parent if config.audio_dir is None else find_path(config.audio_dir, config, "audio_dir")


def audio_path(given: str, base: Path, place: str) -> str:
    """Return the full path of an audio file named at `place`; raise DataError if it leaves `base` or is not there."""
    inside = os.path.normpath(base / given)
    if not os.path.isabs(given) and not Path(inside).is_relative_to(os.path.normpath(base)):
        raise DataError(
            f"{place}: the audio path {given!r} leaves {base}; set audio_dir to the folder of the audio, or write the whole path"
        )
    if not os.path.isfile(inside):
        raise DataError(f"{place}: there is no audio file {inside}; audio_dir is the folder of relative paths")
    return inside


class Checked:
    """Access to the lines of one split: invalid ones are passed to `invalid` with the key that skips them."""

    def __init__(self, invalid: Invalid) -> None:
        self.invalid = invalid

    def wrong(self, place: str, reason: str, detail: str | None = None) -> None:
        """Raise DataError for a line, or count it under `reason`."""
        self.invalid(place, reason, f"{detail or reason}; {SKIP}")

    def find_audio(self, given: str, base: Path, place: str) -> str | None:
        """Return the path of an audio file; None if it is wrong and lines are skipped."""
        try:
            return audio_path(given, base, place)
        except DataError as error:
            self.wrong(place, "wrong audio path", str(error).removeprefix(f"{place}: "))
            return None

    def fields(self, path: Path, least: int, most: int = -1) -> dict[str, tuple[str, list[str]]]:
        """Read a file of Kaldi, `key value ...` a line, as `{key: (place, values)}` with at least `least` values.

        With `most`, the last of as many values is the rest of the line.
        """
        found: dict[str, tuple[str, list[str]]] = {}
        for number, line in enumerate(text_lines(path, self.invalid), 1):
            place, (key, *values) = f"{path}:{number}", line.strip().split(None, most) or [""]
            if not key:
                continue
            if key in found:
                self.wrong(place, "double id", f"the id {key!r} is at {found[key][0]} already")
            elif len(values) < least:
                what = "no words after the id" if least == 1 else f"{len(values) + 1} fields instead of {least + 1}"
                self.wrong(place, "missing fields", f"{what}: {line.strip()!r}")
            else:
                found[key] = (place, values)
        return found


# Kaldi folders


def read_kaldi(config: KaldiDatasetConfig, split: str, invalid: Invalid) -> Listing:
    """Read wav.scp, segments, text and utt2spk of a Kaldi folder; raise DataError."""
    folder = find_path(config.data_files[split], config, "the Kaldi folder of data_files")
    files = [folder / name for name in ("wav.scp", "segments", "text", "utt2spk")]
    if not files[0].is_file():
        raise DataError(f"data set {config.name!r}: {folder} has no wav.scp, so it is not a data folder of Kaldi")
    if config.tokenizer is not None and not files[2].is_file():
        raise DataError(f"data set {config.name!r}: {folder} has no file text, and the tokenizer needs transcripts")
    lines = Checked(invalid)
    recordings = lines.fields(files[0], 1, 1)  # spaces belong to a path or a command
    segments, texts, speakers = (
        lines.fields(path, least) if path.is_file() else None for path, least in zip(files[1:], (3, 1, 1), strict=True)
    )
    base = audio_base(config, files[0])
    found: dict[str, Audio] = {}
    for name, (place, (given,)) in recordings.items():
        if (audio := _kaldi_audio(config, name, place, given, base, lines)) is not None:
            found[name] = audio
    if segments is None:
        whole = {name: (audio.place, [name, "0", "-1"]) for name, audio in found.items()}
        utterances: Mapping[str, tuple[str, list[str]]] = whole
    else:
        utterances = segments
    for name, (place, (recording, begin, end, *_)) in utterances.items():
        if recording not in found:
            if recording not in recordings:
                lines.wrong(place, "unknown recording", f"wav.scp has no recording {recording!r}")
            continue
        times = _times(begin, None if float_of(end) == -1 else end, place, lines)
        words_of = _value_of(texts, name, place, "text", lines)
        speaker = _value_of(speakers, name, place, "utt2spk", lines)
        if times is not None and words_of is not None and speaker is not None:
            segment = Segment(name, *times, " ".join(words_of) or None, " ".join(speaker) or None, place)
            found[recording].segments.append(segment)
    for table in (texts, speakers):
        for name, (place, _) in (table or {}).items():
            if name not in utterances and not (segments is None and name in recordings):
                lines.wrong(place, "unknown utterance", f"no utterance has the id {name!r}")
    return Listing([path for path in files if path.is_file()], list(found.values()))


def _kaldi_audio(
    config: KaldiDatasetConfig, name: str, place: str, given: str, base: Path, lines: Checked
) -> Audio | None:
    if given.endswith("|"):
        check_command(given, place, allowed=config.allow_commands)
        return Audio(name, given[:-1].strip(), place, is_command=True)
    path = lines.find_audio(given, base, place)
    return None if path is None else Audio(name, path, place)


def check_command(command: str, place: str, *, allowed: bool) -> None:
    """Raise DataError for a command in place of an audio file, unless the config allows commands."""
    if not allowed:
        raise DataError(
            f"{place}: the audio is the output of a command, which is not run: {command!r}\n"
            "A command can do anything that you can. If you trust this file, set allow_commands: true; or write the output to "
            "audio files."
        )


def _value_of(
    table: Mapping[str, tuple[str, list[str]]] | None, name: str, place: str, file: str, lines: Checked
) -> list[str] | None:
    """Return the values of an utterance in a file of Kaldi, none without the file; None if it has no line there."""
    if table is None:
        return []
    if name not in table:
        lines.wrong(place, f"no line in {file}", f"the file {file} has no line for {name!r}")
        return None
    return table[name][1]


def float_of(value: Any) -> float | None:
    """Return a finite number given as one or as text; None for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _times(start: Any, end: Any, place: str, lines: Checked) -> tuple[float, float | None] | None:
    """Return start and end in seconds; None if they are wrong and lines are skipped."""
    begin, stop = float_of(start), None if end is None else float_of(end)
    if begin is None or begin < 0:
        lines.wrong(place, "wrong times", f"the start {start!r} is not a number of seconds")
    elif end is not None and stop is None:
        lines.wrong(place, "wrong times", f"the end {end!r} is not a number of seconds")
    elif stop is not None and stop <= begin:
        lines.wrong(place, "wrong times", f"the end {stop:g} s is not after the start {begin:g} s")
    else:
        return begin, stop
    return None


# Tables


def read_table(config: AudioTableDatasetConfig, split: str, invalid: Invalid) -> Listing:
    """Read the rows of a table, grouped by recording; raise DataError."""
    files = find_paths(config.data_files[split], config, "the table of data_files")
    lines, found, names = Checked(invalid), {}, {}  # type: Checked, dict[str, Audio], dict[str, str]
    for path in files:
        base = audio_base(config, path)
        for number, row in _table_rows(config, path, lines):
            place = f"{path}:{number}"
            values = {key: _cell(row.get(column)) for key, column in config.columns}
            segment = _row_segment(config, row, values, place, lines)
            audio = lines.find_audio(str(values["audio"]), base, place) if segment and values["audio"] else None
            if segment is None or audio is None:
                if segment is not None:
                    lines.wrong(place, "no audio", f"column {config.columns.audio!r} is empty")
                continue
            recording = found.setdefault(audio, Audio(str(values["audio"]), audio, place))
            if any(other.end is None or segment.end is None for other in recording.segments):
                there = recording.segments[0].place
                lines.wrong(place, "double audio", f"{audio} is at {there} already, and one of them has no end")
                continue
            number_of = len(recording.segments)
            name = segment.id or recording.id + (f"-{number_of}" if number_of else "")
            if name in names:
                lines.wrong(place, "double id", f"the id {name!r} is at {names[name]} already")
                continue
            names[name] = place
            recording.segments.append(Segment(name, *_fields_after_id(segment)))
    return Listing(files, [audio for audio in found.values() if audio.segments])


def _fields_after_id(segment: Segment) -> tuple[float, float | None, str | None, str | None, str]:
    return segment.start, segment.end, segment.text, segment.speaker, segment.place


def _table_rows(config: AudioTableDatasetConfig, path: Path, lines: Checked) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table with their lines; raise DataError for a missing column."""
    # a run's config.yml has all keys, so a column that has its default name may be missing
    named = [name for key, name in config.columns if key == "audio" or name != key]
    if config.tokenizer is not None and config.columns.text not in named:
        named.append(config.columns.text)
    plain = path.name.removesuffix(".gz")
    if not plain.endswith((".csv", ".tsv")) and config.delimiter is None:
        for number, row in json_rows(path, lines.invalid):
            missing = next((name for name in named if name not in row), None)
            if missing is None:
                yield number, row
            else:
                lines.wrong(
                    f"{path}:{number}", "missing column", f"{describe_missing_column(missing, list(row))}{_NAME_IT}"
                )
        return
    delimiter = config.delimiter or ("\t" if plain.endswith(".tsv") else ",")
    try:
        yield from csv_rows(path, delimiter, named, lines.invalid)
    except DataError as error:
        raise DataError(f"{error}{_NAME_IT}" if "there is no column" in str(error) else str(error)) from error


def _cell(value: Any) -> Any:
    """Return a value of a table; None for an empty one."""
    missing = value is None or (isinstance(value, str) and not value.strip()) or value != value
    return None if missing else value.strip() if isinstance(value, str) else value


def _row_segment(
    config: AudioTableDatasetConfig, row: Mapping[str, Any], values: Mapping[str, Any], place: str, lines: Checked
) -> Segment | None:
    """Return the segment of a row, with an empty id if the row names none; None if the row is left out."""
    for key in ("audio", "text"):
        if values[key] is not None and not isinstance(values[key], str):
            what = type(values[key]).__name__
            lines.wrong(
                place, f"{key} is not text", f"column {getattr(config.columns, key)!r} must be text; got {what}"
            )
            return None
    if values["text"] is None and config.columns.text in row and config.unit == "utterance":
        lines.invalid.notes.add("empty text", place)
        return None
    times = _times(0.0 if values["start"] is None else values["start"], values["end"], place, lines)
    if times is None:
        return None
    named = {key: None if values[key] is None else str(values[key]) for key in ("id", "speaker")}
    return Segment(named["id"] or "", *times, values["text"], named["speaker"], place)


# RTTM beside recordings


def read_rttm(config: RttmDatasetConfig, split: str, invalid: Invalid) -> Listing:
    """Read the RTTM files below a folder; their turns belong to the recordings of their names. Raise DataError."""
    folder = find_path(config.data_files[split], config, "the folder of data_files")
    base = folder if config.audio_dir is None else find_path(config.audio_dir, config, "audio_dir")
    files = sorted(folder.rglob("*.rttm"))
    if not files:
        raise DataError(f"data set {config.name!r}: {folder} and its subfolders have no RTTM file (*.rttm)")
    lines = Checked(invalid)
    known = {place: _recordings_in(place) for place in {_beside(path, folder, base) for path in files}}
    found: dict[Path, Audio] = {}
    for path in files:
        names = known[_beside(path, folder, base)]
        for number, line in enumerate(text_lines(path, invalid), 1):
            place, values = f"{path}:{number}", line.split()
            if not values or values[0] != "SPEAKER":
                continue
            if (fault := rttm_fault(values)) is not None:
                lines.wrong(place, "wrong turn", fault)
            elif values[1] not in names:
                where = _beside(path, folder, base)
                lines.wrong(
                    place, "unknown recording", f"there is no recording {values[1]!r} (.wav, .flac, ...) in {where}"
                )
            elif (length := float(values[4])) > 0:
                audio = names[values[1]]
                name = audio.relative_to(base).with_suffix("").as_posix()
                recording = found.setdefault(audio, Audio(name, str(audio), place))
                start = float(values[3])
                turn = f"{name}-{len(recording.segments)}"
                recording.segments.append(Segment(turn, start, start + length, None, values[7], place))
    for audio in sorted({audio for names in known.values() for audio in names.values()} - set(found)):
        invalid.notes.add("no turn in an RTTM file", str(audio))
    return Listing(files, [found[audio] for audio in sorted(found)])


def _beside(path: Path, folder: Path, base: Path) -> Path:
    """Return the folder of the recordings of an RTTM file."""
    return base / path.parent.relative_to(folder)


def _recordings_in(folder: Path) -> dict[str, Path]:
    """Map the names of the audio files in a folder, without their endings, to their paths; raise DataError for two."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in _AUDIO and path.is_file():
            if path.stem in found:
                raise DataError(
                    f"{path} and {found[path.stem].name} have one name; RTTM names recordings without endings"
                )
            found[path.stem] = path
    return found
