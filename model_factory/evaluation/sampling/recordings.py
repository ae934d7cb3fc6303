"""Recordings to transcribe or to diarize: audio files, folders of them and manifests; and the formats of the results.

text   ID TEXT for each recording, as in Kaldi
stm    NIST's segments: RECORDING CHANNEL SPEAKER START END <NA> TEXT
rttm   NIST's turns, of diarization: SPEAKER RECORDING CHANNEL START DURATION <NA> <NA> NAME <NA> <NA>
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data_manager.errors import DataError, plain
from data_manager.speech.features import FrameReader
from data_manager.text.files import open_binary
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.line_files import Item, as_one_line
from model_factory.evaluation.sampling.lines import Prepared
from model_factory.training.errors import InputFileError, UnfitError
from model_factory.training.tasks.diarization import Diarization
from model_factory.training.tasks.speech_recognition import SpeechRecognition

Format = Literal["text", "stm", "rttm"]
Turn = tuple[int, float, float]
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".sph", ".aif", ".aiff")
"""Endings of audio files in a folder."""
_MANIFESTS = (".jsonl", ".json", ".gz")
_PATHS = ("audio", "audio_filepath", "path")
"""Keys of a manifest's line under which an audio file is named, beside lhotse's."""


def read_recordings(paths: Sequence[str]) -> Iterator[Item]:
    """Return the recordings of audio files, folders and manifests (JSON lines; `-` is standard input) as lhotse's cuts.

    A line of a manifest is a cut or a recording of lhotse, or `{"audio": PATH, "id": ID}`, whose path is relative to the
    working directory or to the manifest. A file is named by its stem, or by its path where another one has that stem.
    Raises InputFileError for a path that is not there, and for a folder without audio.
    """
    for path in paths:
        place = Path(path)
        if path != "-" and not place.exists():
            raise InputFileError(f"--input {path}: there is no such file or folder")
        if place.is_dir() and not _audio_files(place):
            raise InputFileError(f"--input {path}: the folder has no audio files ({', '.join(AUDIO)})")
    return _recordings(paths)


def _audio_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO)


def _recordings(paths: Sequence[str]) -> Iterator[Item]:
    numbers, stems = count(1), Counter(Path(path).stem for path in paths)
    for path in paths:
        place = Path(path)
        if place.is_dir():
            for file in _audio_files(place):
                name = file.relative_to(place).with_suffix("").as_posix()
                yield _read(next(numbers), str(file), str(file).encode(), {"audio": str(file), "id": name}, Path())
        elif path == "-" or place.suffix in _MANIFESTS:
            yield from _manifest(path, numbers)
        else:
            name = place.stem if stems[place.stem] == 1 else place.with_suffix("").as_posix()
            yield _read(next(numbers), path, path.encode(), {"audio": path, "id": name}, Path())


def _manifest(path: str, numbers: Iterator[int]) -> Iterator[Item]:
    name, folder = ("<stdin>", Path()) if path == "-" else (path, Path(path).parent)
    with nullcontext(sys.stdin.buffer) if path == "-" else open_binary(Path(path)) as file:
        for number, line in enumerate(file, 1):
            place, key = f"{name}:{number}", line.strip()
            if not key:
                continue
            try:
                content = json.loads(key)
            except ValueError as error:
                yield Item(next(numbers), place, key, None, f"this is not a JSON object: {error}")
            else:
                yield _read(next(numbers), place, key, content, folder)


def _read(number: int, place: str, key: bytes, content: Any, folder: Path) -> Item:
    """Make the cut of one recording; its audio is not read yet."""
    try:
        return Item(number, place, key, _cut(content, folder))
    except Exception as error:  # audio libraries raise many types for a damaged file
        return Item(number, place, key, None, plain(error))


def _cut(content: Any, folder: Path) -> Any:
    from lhotse import Recording
    from lhotse.serialization import deserialize_item

    if not isinstance(content, dict):
        raise DataError('a line of a manifest is a JSON object, such as {"audio": "a.wav"}')
    named = next((key for key in _PATHS if isinstance(content.get(key), str)), None)
    if named is not None:
        given = Path(content[named])
        file = given if given.exists() or given.is_absolute() else folder / given
        recording = Recording.from_file(file, recording_id=str(content.get("id", given.stem)))
        return recording.to_cut()
    _refuse_commands(content)
    found = deserialize_item(content)
    if isinstance(found, Recording):
        return found.to_cut()
    if not hasattr(found, "load_audio"):
        raise DataError(f"the line names no audio; give it one of {', '.join(_PATHS)}, or a cut or recording of lhotse")
    return found.drop_features() if found.has_recording else found


def _refuse_commands(content: Any) -> None:
    """Raise DataError where a manifest has audio of another kind than files: lhotse would run a command."""
    if isinstance(content, dict):
        for source in content.get("sources") or ():
            if isinstance(source, dict) and source.get("type") != "file":
                raise DataError(f"the audio is of type {source.get('type')!r}, and only files are read")
        for value in content.values():
            _refuse_commands(value)
    elif isinstance(content, list):
        for value in content:
            _refuse_commands(value)


@dataclass
class RecordingSampler:
    """Transcripts of a speech recogniser, or the turns of a diarization model, of whole recordings."""

    run: LoadedRun
    frames: FrameReader = field(init=False)

    def __post_init__(self) -> None:
        self.features: Any = self.run.dataset_config.features  # type: ignore[attr-defined]
        self.frames = FrameReader(self.features)

    def prepare(self, number: int, value: Any) -> Prepared:
        """Resample a cut to the rate of the run's features, if they have one."""
        rate = self.features.sampling_rate
        cut = value.resample(rate) if rate is not None and value.sampling_rate != rate else value
        return Prepared(number, int(cut.duration * 1000), cut)

    @torch.no_grad()
    def generate(self, lines: Sequence[Prepared]) -> list[Any]:
        """Return the transcript, or the turns, of each recording of a batch, or the error of one that cannot be read."""
        frames: list[Tensor | ValueError] = []
        for line in lines:
            try:
                frames.append(self.frames(line.content))
            except ValueError as error:
                frames.append(error)
        good = [one for one in frames if isinstance(one, Tensor)]
        found = iter(self._predict(good) if good else [])
        return [next(found) if isinstance(one, Tensor) else one for one in frames]

    def _predict(self, frames: Sequence[Tensor]) -> list[Any]:
        features = torch.nn.utils.rnn.pad_sequence(list(frames), batch_first=True).to(self.run.device)
        lengths = torch.tensor([len(one) for one in frames], device=self.run.device)
        mask = torch.arange(features.shape[1], device=self.run.device) < lengths[:, None]
        batch: dict[str, Any] = {"features": features} | ({} if bool(mask.all()) else {"feature_mask": mask})
        logits, positions = self.run.model(features, batch.get("feature_mask"))
        task = self.run.task
        if isinstance(task, SpeechRecognition):
            return list(task.transcripts(logits, positions))
        assert isinstance(task, Diarization)
        batch["speaker_activity"] = torch.zeros_like(mask).unsqueeze(-1)
        return [task.turns(predicted) for _, predicted in task.pairs(batch, logits)]


def choose_format(run: LoadedRun, wanted: str | None) -> Format:
    """Return the format of the output; raises UnfitError for one that a run of this task does not have."""
    fits: tuple[Format, ...] = ("rttm",) if run.task_name == "diarization" else ("text", "stm")
    for name in fits:
        if wanted in (None, name):
            return name
    raise UnfitError(f"--format {wanted}: a run of task {run.task_name} writes {' or '.join(fits)}")


def format_recording(item: Item, found: Any, form: Format) -> str:
    """Return the lines of one recording, each with its line end; no line for one without turns, or not read, in NIST's."""
    cut = item.value
    name = _word(cut.id) if cut is not None else _word(Path(item.place).stem)
    if form == "text":
        return f"{name} {as_one_line(found or '')}".rstrip() + "\n"
    if cut is None or found is None:
        return ""
    recording = _word(getattr(cut, "recording_id", None) or cut.id)
    start, channel = float(getattr(cut, "start", 0.0)), 1
    if form == "stm":
        return (
            f"{recording} {channel} {name} {start:.2f} {start + cut.duration:.2f} <NA> {as_one_line(found)}".rstrip()
            + "\n"
        )
    return "".join(
        f"SPEAKER {recording} {channel} {start + begin:.3f} {end - begin:.3f} <NA> <NA> speaker{speaker} <NA> <NA>\n"
        for speaker, begin, end in found
    )


def as_fields(item: Item, found: Any) -> Mapping[str, Any]:
    """Return the keys of the JSON object of one recording."""
    cut = item.value
    name = {} if cut is None else {"id": str(cut.id)}
    if isinstance(found, list):
        found = [{"speaker": speaker, "start": begin, "end": end} for speaker, begin, end in found]
    return {**name, "output": found}


def _word(text: Any) -> str:
    """Return an id without white space, which separates the columns of a line."""
    return "_".join(str(text).split()) or "_"
