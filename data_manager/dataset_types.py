"""Types of the `global_config` section and of the entries of `datasets`, one a source; nothing heavy is imported.

Whether a file exists is not looked at here: a config may be checked on one machine and run on another.
"""

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from data_manager.recipe_checks import recipe_violations, unknown_corpus
from data_manager.registry import SOURCES
from yaml_config.registry import closest
from yaml_config.strict_model import StrictModel, Violation


def _not_empty(value: Any) -> Any:
    if not value:
        raise ValueError("must not be empty")
    return value


def _folder_name(value: str) -> str:
    """A data set's name is a folder's name below corpus_dir and output_dir."""
    if value in ("", ".", "..") or any(character in value for character in "/\\\0") or value != value.strip():
        raise ValueError("must be a plain name, as it names a folder; paths go into data_files or global_config")
    return value


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


FilePath = Annotated[str, BeforeValidator(_path_text), AfterValidator(_not_empty)]


class GlobalConfig(StrictModel):
    """Where corpora lie and where what is made from them goes; shared by all entries of `datasets`."""

    corpus_dir: FilePath = "./data"
    """Folder of the corpora, each in a folder of its own name."""
    output_dir: FilePath = "./manifests"
    """Folder for what is prepared from them, in a folder a data set."""
    force_download: bool = False
    """Download a corpus again although it is there."""


class DatasetConfig(StrictModel):
    """One entry of `datasets`. With `source: lhotse`, the default, `name` alone is enough."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """Name of the corpus, and of its folders below corpus_dir and output_dir."""
    source: str = "lhotse"
    """What loads it: lhotse (speech corpora), text (your own files) or embedded (Python's documentation)."""
    global_config: GlobalConfig = GlobalConfig()
    """Folders; in a file they stand in the section `global_config`."""

    def violations(self) -> Iterator[Violation]:
        """A lhotse corpus has a recipe; the type of another source yields its own."""
        if self.source == "lhotse":
            yield from unknown_corpus(self.name)
        elif type(self) is DatasetConfig:
            from data_manager import sources  # noqa: F401  (registers the built-in ones)

            if self.source not in SOURCES:
                near = closest(self.source, SOURCES.names())
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(SOURCES)}"
                yield Violation(f"unknown data source {self.source!r}", ("source",), suggestion=hint)


class FeaturesConfig(StrictModel):
    """Frames computed from audio while batches are made: 25 ms long, 10 ms apart."""

    type: Literal["fbank"] = "fbank"
    """fbank: log energies of mel bins."""
    num_mel_bins: Annotated[int, Field(gt=0, le=1024)] = 80
    """Mel bins, the width of a frame."""


class LhotseDatasetConfig(DatasetConfig):
    """A speech corpus that lhotse has a recipe for, such as librispeech, timit or yesno."""

    source: Literal["lhotse"] = "lhotse"
    download_params: dict[str, Any] = {}
    """Parameters of lhotse's `download_NAME`, say `{dataset_parts: mini_librispeech}`."""
    process_params: dict[str, Any] = {}
    """Parameters of lhotse's `prepare_NAME`, say `{dataset_parts: [dev-clean]}` or `{num_phones: 48}`."""
    features: FeaturesConfig = FeaturesConfig()
    """Features of a batch."""

    def violations(self) -> Iterator[Violation]:
        """Each parameter is one that the recipe takes, and none that it needs is missing."""
        yield from super().violations()
        yield from recipe_violations(self.name, self.download_params, self.process_params)


class TokenizerConfig(StrictModel):
    """How text becomes token ids."""

    type: Literal["characters", "bytes", "hugging_face"] = "characters"
    """characters (those of the train split), bytes (of UTF-8, 259 ids) or hugging_face (a tokenizer's folder)."""
    path: FilePath | None = None
    """Folder of a Hugging Face tokenizer: tokenizer.json, or vocab.json and merges.txt."""

    def violations(self) -> Iterator[Violation]:
        """Only hugging_face has a path, and it needs one."""
        if self.type == "hugging_face" and self.path is None:
            yield Violation("type hugging_face needs path, the tokenizer's folder", ("path",), (("type",),))
        if self.type != "hugging_face" and self.path is not None:
            yield Violation(
                f"a tokenizer of {self.type} has no path",
                ("path",),
                (("type",),),
                "leave it out, or type: hugging_face",
            )


class PairFiles(StrictModel):
    """Two files of which line N of one belongs to line N of the other."""

    source: FilePath
    """File of the sentences that are read."""
    target: FilePath
    """File of the sentences that are to be written."""

    def violations(self) -> Iterator[Violation]:
        """The two are different files."""
        if self.source == self.target:
            yield Violation(f"source and target are the same file {self.source!r}", ("target",), (("source",),))


def _kind_of_files(value: Any) -> str | None:
    if isinstance(value, str | os.PathLike):
        return "file"
    return "files" if isinstance(value, list) else "pair" if isinstance(value, dict | PairFiles) else None


SplitFiles = Annotated[
    Annotated[FilePath, Tag("file")]
    | Annotated[list[FilePath], AfterValidator(_not_empty), Tag("files")]
    | Annotated[PairFiles, Tag("pair")],
    Discriminator(
        _kind_of_files,
        custom_error_type="files_of_split",
        custom_error_message="must be a file, a list of files or a pair {source: a.en, target: a.de}",
    ),
]
"""The files of one split: one, several (each a document), or a pair of line-aligned ones."""


def _split_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of split to files, such as {train: a.txt}")
    return value


class _TokensConfig(DatasetConfig):
    """What every data set of text takes."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes token ids."""
    sequence_length: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Tokens of a row into which text is cut (256 where left out); of pairs, the longest sentence allowed."""


class TextDatasetConfig(_TokensConfig):
    """Your own text files in UTF-8, or line-aligned pairs of them."""

    source: Literal["text"] = "text"
    data_files: Annotated[dict[str, SplitFiles], BeforeValidator(_split_mapping), AfterValidator(_not_empty)]
    """Files of each split: `{train: a.txt, test: [b.txt, c.txt]}`, or `{train: {source: a.en, target: a.de}}`.
    A relative path is looked for from the working directory, then in corpus_dir/name, then in corpus_dir."""

    @property
    def is_paired(self) -> bool:
        """True where the splits are line-aligned pairs."""
        return any(isinstance(files, PairFiles) for files in self.data_files.values())

    def violations(self) -> Iterator[Violation]:
        """All splits are pairs or none is."""
        yield from super().violations()
        splits = list(self.data_files)
        if {"source", "target"} == set(splits) and not self.is_paired:
            yield Violation(
                "source and target are the two files of one split, and no split is named",
                ("data_files",),
                suggestion="data_files: {train: {source: ..., target: ...}}",
            )
        pairs = [split for split in splits if isinstance(self.data_files[split], PairFiles)]
        if pairs and len(pairs) < len(splits):
            odd = next(split for split in splits if split not in pairs)
            yield Violation(
                f"split {odd!r} is plain text, while {pairs[0]!r} is a pair of files",
                ("data_files", odd),
                (("data_files", pairs[0]),),
                "give every split {source: ..., target: ...}, or make two data sets of it",
            )


class EmbeddedDatasetConfig(_TokensConfig):
    """The English text of Python's own documentation, `pydoc_data.topics`, which comes with every CPython."""

    source: Literal["embedded"] = "embedded"
