"""Config types of speech in a user's own files: lhotse manifests, Kaldi folders, tables and RTTM; imports nothing heavy."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from data_manager.dataset_types import NotEmpty, not_empty
from data_manager.registry import register_source
from data_manager.speech.types import SpeechCorpusConfig
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.registry import import_on_call
from model_factory.yaml_config.strict_model import StrictModel, Violation


def _split_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of split to files, such as {train: data/train}")
    return value


Files = Annotated[dict[str, PathText], BeforeValidator(_split_mapping), AfterValidator(not_empty)]
Unit = Literal["utterance", "recording"]


class OwnSpeechConfig(SpeechCorpusConfig):
    """Keys of recordings in a user's own files."""

    data_files: Files
    """File or folder of each split: `{train: data/train, dev: data/dev}`. A relative path is searched in the working
    directory, then in corpus_dir/name, then in corpus_dir."""
    audio_dir: PathText | None = None
    """Folder of relative audio paths, searched like data_files; by default that of the file that names them. A relative
    path must not leave it; an absolute one is used as it is."""
    on_invalid: Literal["error", "skip"] = "error"
    """An invalid line of these files: stop the preparation, or skip, count and report it."""


class Manifests(StrictModel):
    """Two manifests of lhotse that belong together."""

    recordings: PathText
    """Manifest of the recordings."""
    supervisions: PathText
    """Manifest of their segments."""


def _kind_of_manifest(value: Any) -> str | None:
    return "pair" if isinstance(value, dict | Manifests) else "file" if value is not None else None


class CutsDatasetConfig(OwnSpeechConfig):
    """Manifests of lhotse: cuts, or recordings with supervisions, one JSON object a line (.jsonl or .jsonl.gz)."""

    source: Literal["cuts"] = "cuts"
    data_files: Annotated[  # type: ignore[assignment]
        dict[
            str,
            Annotated[
                Annotated[PathText, Tag("file")] | Annotated[Manifests, Tag("pair")],
                Discriminator(
                    _kind_of_manifest,
                    custom_error_type="manifest",
                    custom_error_message="must be a manifest of cuts, or {recordings: ..., supervisions: ...}",
                ),
            ],
        ],
        BeforeValidator(_split_mapping),
        AfterValidator(not_empty),
    ]
    """Manifest of each split: `{train: cuts.jsonl.gz}` or `{train: {recordings: r.jsonl.gz, supervisions: s.jsonl.gz}}`. A
    relative path is searched in the working directory, then in corpus_dir/name, then in corpus_dir."""
    allow_commands: bool = False
    """Run the commands that manifests name in place of audio files; a command can do anything that you can."""


class KaldiDatasetConfig(OwnSpeechConfig):
    """Kaldi's data folders: wav.scp, and text, utt2spk and segments as far as they are there."""

    source: Literal["kaldi"] = "kaldi"
    unit: Unit = "utterance"
    """Cuts: each utterance, or each whole recording with all its utterances, as for diarization."""
    allow_commands: bool = False
    """Run the commands of wav.scp (lines that end in `|`); a command can do anything that you can."""


class ColumnNames(StrictModel):
    """Names of the columns of a table."""

    audio: NotEmpty = "audio"
    """Path of the recording."""
    text: NotEmpty = "text"
    """Transcript."""
    speaker: NotEmpty = "speaker"
    """Name of the speaker."""
    start: NotEmpty = "start"
    """Start of the utterance in the recording; by default 0. [s]"""
    end: NotEmpty = "end"
    """End of the utterance; by default that of the recording. [s]"""
    id: NotEmpty = "id"
    """Name of the utterance; by default made from the audio path."""

    def violations(self) -> Iterator[Violation]:
        """Check that no column is used twice."""
        seen: dict[str, str] = {}
        for key in type(self).model_fields:
            if (other := seen.setdefault(getattr(self, key), key)) != key:
                message = f"{other} and {key} are the same column {getattr(self, key)!r}"
                yield Violation(message, (key,), ((other,),), "name another column")


class AudioTableDatasetConfig(OwnSpeechConfig):
    """Tables with a row for each utterance: CSV (.csv, .tsv) or JSON lines, with its audio file, text and speaker."""

    source: Literal["audio_table"] = "audio_table"
    columns: ColumnNames = ColumnNames()
    """Names of the columns, where they differ: `{audio: path, text: sentence, speaker: client_id}`. Only audio must be
    there, and those that are named here."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Separator of values in a CSV file; by default a comma, in .tsv a tab."""
    unit: Unit = "utterance"
    """Cuts: each row, or each whole recording with all its rows, as for diarization."""


class RttmDatasetConfig(OwnSpeechConfig):
    """Folders of recordings with RTTM files beside them, which say who speaks when; searched with their subfolders.

    A turn belongs to the recording of the name in its second field, in the folder of the RTTM file.
    """

    source: Literal["rttm"] = "rttm"

    def violations(self) -> Iterator[Violation]:
        """Check that no tokenizer is set, as RTTM has no text."""
        yield from super().violations()
        if self.tokenizer is not None:
            yield Violation("RTTM has no transcripts for a tokenizer", ("tokenizer",), (("source",),), "leave it out")


_load = import_on_call("data_manager.speech.corpus:load_speech")
_transcripts = import_on_call("data_manager.speech.corpus:get_transcripts")
register_source("cuts", config=CutsDatasetConfig, texts=_transcripts)(_load)
register_source("kaldi", config=KaldiDatasetConfig, texts=_transcripts)(_load)
register_source("audio_table", config=AudioTableDatasetConfig, texts=_transcripts)(_load)
register_source("rttm", config=RttmDatasetConfig, texts=_transcripts)(_load)
