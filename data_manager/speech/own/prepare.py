"""The sources `cuts`, `kaldi`, `audio_table` and `rttm`: read a user's own files, build lhotse cuts, and cache them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_manager.cache import PreparedFolder
from data_manager.documents import Invalid, Notes
from data_manager.errors import MEND, DataError, plain
from data_manager.paths import full_path
from data_manager.progress import progress
from data_manager.speech.audio import MissingDecoderError, checked_headers, drop_unreadable, missing_decoder
from data_manager.speech.download import import_lhotse
from data_manager.speech.manifests import describe_lost_segments, fingerprint, load_prepared_cuts, write_cuts
from data_manager.speech.own.files import SKIP, Audio, Listing, read_kaldi, read_rttm, read_table
from data_manager.speech.own.manifests import ManifestReader
from data_manager.speech.own.types import (
    AudioTableDatasetConfig,
    CutsDatasetConfig,
    KaldiDatasetConfig,
    OwnSpeechConfig,
    RttmDatasetConfig,
)


@dataclass
class _Split:
    """One split: its files, the audio that these name, its notes, and a function that makes its cuts."""

    files: list[Path]
    audio: list[str]
    notes: Notes
    cuts: Callable[[list[str]], Any]


def prepare_own(config: OwnSpeechConfig) -> tuple[PreparedFolder, dict[str, Any]]:
    """Read the files of a config, or the cached cuts; return the cache folder and the cuts of each split.

    Raise DataError.
    """
    lhotse = import_lhotse()
    splits = {split: _read(config, split) for split in config.data_files}
    inputs = {
        "source": config.source,
        "lhotse": lhotse.__version__,
        "settings": config.model_dump(
            include={"data_files", "audio_dir", "columns", "delimiter", "unit", "on_invalid"}
        ),
        "files": {str(path): fingerprint(path) for split in splits.values() for path in split.files},
        "audio": _state_of(path for split in splits.values() for path in split.audio),
        "bad_audio": config.loading.bad_audio,
        "speakers": config.loading.speakers,
        "shortest": config.features.frame_length,
    }
    make = partial(_write, config=config, splits=splits)
    folder, found = load_prepared_cuts(full_path(config.global_config.output_dir) / config.name, inputs, make)
    return folder, {split: found[split.replace("/", "-")] for split in config.data_files}


def _read(config: OwnSpeechConfig, split: str) -> _Split:
    notes = Notes()
    invalid = Invalid(config.on_invalid == "skip", notes)
    if isinstance(config, CutsDatasetConfig):
        reader = ManifestReader(config, invalid)
        return _Split(reader.files, reader.audio, notes, partial(_add_notes, reader.read(split), reader.notes))
    if isinstance(config, KaldiDatasetConfig):
        listing, unit = read_kaldi(config, split, invalid), config.unit
    elif isinstance(config, AudioTableDatasetConfig):
        listing, unit = read_table(config, split, invalid), config.unit
    else:
        assert isinstance(config, RttmDatasetConfig)
        listing, unit = read_rttm(config, split, invalid), "recording"
    files = [audio.source for audio in listing.audio if not audio.is_command]
    return _Split(listing.files, files, notes, partial(_build, config, split, listing, unit, invalid))


def _add_notes(cuts: Any, found: list[str], notes: list[str]) -> Any:
    notes += found
    return cuts


def _state_of(paths: Iterator[str]) -> str:
    """Return a hash of the names, sizes and times of change of audio files."""
    digest = sha256()
    for path in paths:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _write(folder: Path, final: Path, *, config: OwnSpeechConfig, splits: dict[str, _Split]) -> list[str]:
    """Write the cuts of each split into `folder`, which will be moved to `final`; return the skip log."""
    notes: list[str] = []
    for name, split in splits.items():
        found = split.cuts(notes)
        notes += split.notes.lines(name)
        if config.loading.bad_audio == "drop":
            found = drop_unreadable(found, name, notes)
        if write_cuts(folder, name, found, final=final) == 0:
            details = "".join(f"\n  {note}" for note in notes[:10])
            raise DataError(f"data set {config.name!r}: split {name!r} has no cuts{details}")
    return notes


def _build(
    config: OwnSpeechConfig, split: str, listing: Listing, unit: str, invalid: Invalid, notes: list[str]
) -> list[Any]:
    """Build the cuts of a listing: whole recordings, or a cut for each segment, in the order of the files."""
    found: list[Any] = []
    listed: list[Any] = []
    ends: dict[str, float] = {}
    tolerant = config.loading.bad_audio == "drop"
    with checked_headers(tolerant=False):
        for audio in progress(listing.audio, f"headers of {config.name} {split}"):
            try:
                recording = _recording_of(audio)
            except MissingDecoderError:
                raise
            except DataError as error:
                if not tolerant:
                    raise
                notes.append(f"{split}: {str(error).partition(chr(10))[0]}")
                continue
            cut = recording.to_cut()
            cut.id = audio.id
            shortest = config.features.frame_length if unit == "utterance" else 1 / recording.sampling_rate
            spoken = list(_supervisions(config, recording, audio, invalid, shortest))
            listed += spoken
            ends[recording.id] = recording.duration
            cut.supervisions = [item.trim(recording.duration) for item in spoken]
            if unit == "recording":
                found.append(cut)
            elif cut.supervisions:
                found += cut.trim_to_supervisions(keep_overlapping=False)
    notes += (f"{split}: {text}" for text in describe_lost_segments(listed, ends))
    return found


def _recording_of(audio: Audio) -> Any:
    """Return lhotse's recording of a file, or of the output of a command; raise DataError, which names the line."""
    from lhotse import AudioSource, Recording

    try:
        if not audio.is_command:
            return Recording.from_file(audio.source, recording_id=audio.id)
        done = subprocess.run(audio.source, shell=True, capture_output=True, check=False)
        if done.returncode != 0 or not done.stdout:
            said = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise DataError(f"{audio.place}: the command {audio.source!r} failed with {done.returncode}: {said}")
        heard = Recording.from_bytes(done.stdout, audio.id)
        source = AudioSource("command", heard.sources[0].channels, audio.source)
        return replace(heard, sources=[source])
    except DataError:
        raise
    except Exception as error:  # audio libraries raise many types for a damaged file
        if (missing := missing_decoder(audio.id, [audio.source], error)) is not None:
            raise missing from error
        reason = plain(error).rpartition(" failed. ")[2]
        raise DataError(f"{audio.place}: audio {audio.source} cannot be read: {reason}\n{MEND}") from error


def _supervisions(
    config: OwnSpeechConfig, recording: Any, audio: Audio, invalid: Invalid, shortest: float
) -> Iterator[Any]:
    """Yield the supervisions of a recording; segments after its end or shorter than `shortest` seconds are invalid."""
    from lhotse import SupervisionSegment

    channels = recording.channel_ids
    for segment in audio.segments:
        length = (recording.duration if segment.end is None else segment.end) - segment.start
        heard = min(length, recording.duration - segment.start)
        if heard <= 0:
            detail = f"the segment begins at {segment.start:g} s, and {audio.source} ends at {recording.duration:g} s"
            invalid(segment.place, "segment after the end of its recording", f"{detail}; {SKIP}")
        elif heard < shortest - 1e-9:
            detail = f"the segment has {heard:.3g} s of audio, less than a frame or a sample ({shortest:.3g} s)"
            invalid(segment.place, "segment too short", f"{detail}; {SKIP}")
        elif config.loading.speakers and segment.speaker is None:
            invalid(
                segment.place, "no speaker", f"loading: {{speakers: true}} needs the speaker of each segment; {SKIP}"
            )
        else:
            yield SupervisionSegment(
                id=segment.id,
                recording_id=recording.id,
                start=segment.start,
                duration=length,
                channel=channels[0] if len(channels) == 1 else channels,
                text=segment.text,
                speaker=segment.speaker,
            )
