"""Read audio, and explain what is wrong with a file: damaged, empty, cut off, not numbers, or without its decoder."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data_manager.errors import MEND, DataError, plain
from data_manager.progress import progress

Samples = np.ndarray[Any, np.dtype[np.float32]]


LARGEST = 1e10
"""Largest sample: far above any scale in use, and the energies of frames are still finite in float32."""


class MissingDecoderError(DataError):
    """Error of an audio file that needs a program which is not installed; the file is not damaged."""


def read_audio(cut: Any) -> Samples:
    """Read the samples [channels, N] of a cut or recording; raise DataError, which names the file."""
    files = audio_files(cut)
    try:
        samples: Samples = cut.load_audio()
    except Exception as error:  # audio libraries raise many types for a damaged file
        if (missing := missing_decoder(cut.id, files, error)) is not None:
            raise missing from error
        reason = plain(error).rpartition(" failed. ")[2]  # the text before it repeats the file name
        raise _unreadable(cut.id, files, reason) from error
    fault = next(filter(None, map(_truncation, files)), None) or _sample_fault(samples)
    if fault is not None:
        raise _unreadable(cut.id, files, fault)
    return samples


def _unreadable(name: str, files: list[str], reason: str) -> DataError:
    return DataError(f"audio of {name} cannot be read from {', '.join(files) or 'its tracks'}: {reason}\n{MEND}")


def audio_files(cut: Any) -> list[str]:
    """List the audio paths, or the commands, of a cut, of all tracks of a mixed one, or of a recording."""
    parts = [track.cut for track in getattr(cut, "tracks", ())] or [cut]
    sources = [getattr(getattr(part, "recording", part), "sources", None) or () for part in parts]
    return list(dict.fromkeys(str(source.source) for found in sources for source in found))


def _sample_fault(samples: Samples) -> str | None:
    if samples.shape[-1] == 0:
        return "it has no samples"
    if not np.isfinite(samples).all():
        return "it has samples that are NaN or infinite"
    largest = float(np.abs(samples).max())
    return f"it has samples of up to {largest:.3g}, and audio lies in [-1, 1]" if largest > LARGEST else None


def _truncation(path: str) -> str | None:
    """Describe a WAV or SPHERE file that is shorter than its header says; libsndfile reads what is left of it."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            expected = _expected_size(file)
    except (OSError, ValueError):
        return None
    # a few bytes less are a careless header
    if expected - size <= max(64, expected // 100):
        return None
    return f"it is cut off: its header promises {expected:,} bytes, and it has {size:,}"


def _expected_size(file: Any) -> int:
    """Return the size in bytes that the header of a WAV or SPHERE file promises; 0 if it promises none."""
    begin = file.read(12)
    if begin[:4] == b"RIFF" and begin[8:] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return file.tell() + length if length < 0x7FFF0000 else 0  # programs in a pipe do not know the length
            file.seek(length + length % 2, os.SEEK_CUR)
    elif begin[:7] == b"NIST_1A":
        file.seek(0)
        fields = dict(re.findall(rb"(\w+) -i (\d+)", header := file.read(1024)))
        if b"shorten" not in header and {b"sample_count", b"sample_n_bytes"} <= set(fields):
            frame = int(fields[b"sample_n_bytes"]) * int(fields.get(b"channel_count", 1))
            return int(header.split()[1]) + int(fields[b"sample_count"]) * frame
    return 0


# Programs that lhotse and its audio libraries need for some formats.


_INSTALL = {
    "sph2pipe": "`lhotse install-sph2pipe` compiles it; add its folder to PATH",
    "ffmpeg": "install it with the package manager of the system, for example `apt install ffmpeg`",
    "sox": "install it with the package manager of the system, for example `apt install sox`",
}


_FFMPEG_FILES = (b"\x1aE\xdf\xa3", b"0&\xb2u", b"#!AMR", b"\xff\xf1", b"\xff\xf9")
"""First bytes of Matroska and WebM, WMA, AMR and AAC files; those of MPEG-4 have `ftyp` at byte 4."""


def missing_decoder(name: str, files: list[str], error: Exception) -> MissingDecoderError | None:
    """Return an error if `error`, of reading `files`, has its cause in a program that is not installed."""
    program = "sph2pipe" if "'sph2pipe' binary is not installed" in str(error) else _missing_program(error)
    program = program or next(filter(None, map(_decoder, files)), None)
    if program is None or shutil.which(program) is not None:
        return None
    where = f" in {', '.join(files)}" if files else ""
    return MissingDecoderError(
        f"audio of {name}{where} needs the program {program}, which is not installed\n"
        f"The audio itself may be whole: {_INSTALL.get(program, f'install {program}')}."
    )


def _missing_program(error: Exception) -> str | None:
    """Return the program that a subprocess did not find."""
    if isinstance(error, FileNotFoundError) and re.fullmatch(r"[\w-]+", str(error.filename)):
        return str(error.filename)
    command = getattr(error, "cmd", None) if getattr(error, "returncode", None) == 127 else None
    words = shlex.split(command) if isinstance(command, str) else command
    return str(words[0]) if words else None


def _decoder(path: str) -> str | None:
    """Return the program that reads a file of this format, or that begins this command; None if none is needed."""
    if path.rstrip().endswith("|"):
        return shlex.split(path)[0]
    try:
        with open(path, "rb") as file:
            begin = file.read(1024)
    except OSError:
        return None
    if begin.startswith(b"NIST_1A") and b"shorten" in begin:
        return "sph2pipe"
    return "ffmpeg" if begin[4:8] == b"ftyp" or begin.startswith(_FFMPEG_FILES) else None


# Prepare a corpus with damaged audio files: name the first one, or with `bad_audio: drop` list and drop them.


_SECONDS, _RATE = 3600.0, 16_000


@contextmanager
def checked_headers(*, tolerant: bool) -> Iterator[None]:
    """Check the header of each file that a recipe reads: raise DataError for one without samples or without decoder.

    If `tolerant`, let the recipe continue at a bad header, as if the file had an hour of audio. It would stop at the
    first such file. `drop_unreadable` removes it later, because its audio is unreadable too.
    """
    from lhotse.audio.backend import LibsndfileCompatibleAudioInfo
    from lhotse.audio.utils import AudioLoadingError  # type: ignore[attr-defined,unused-ignore]

    module: Any = import_module("lhotse.audio.recording")
    info = module.info

    def checked(path: Any, **settings: Any) -> Any:
        try:
            found = info(path, **settings)
        except AudioLoadingError as error:
            if (missing := missing_decoder(Path(str(path)).stem, [str(path)], error)) is not None:
                raise missing from error
            if not tolerant:
                raise
            found = None
        if found is not None and found.frames > 0:
            return found
        if not tolerant:
            raise _unreadable(Path(str(path)).stem, [str(path)], "it has no samples")
        return LibsndfileCompatibleAudioInfo(1, int(_SECONDS * _RATE), _RATE, _SECONDS)

    try:
        module.info = checked
        yield
    finally:
        module.info = info


def drop_unreadable(cuts: Any, split: str, notes: list[str]) -> list[Any]:
    """Return the cuts whose audio can be read completely; log the others in `notes`.

    Raise MissingDecoderError, as the files may be whole.
    """
    kept = []
    for cut in progress(cuts, f"reading {split}"):
        try:
            read_audio(cut)
        except MissingDecoderError:
            raise
        except DataError as error:
            notes.append(f"{split}: {str(error).partition(chr(10))[0]}")
        else:
            kept.append(cut)
    return kept
