"""Types of an entry of `datasets` that is text, whatever it is read from; nothing heavy is imported."""

import math
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from data_manager.dataset_types import DatasetConfig, TokenizerConfig, not_empty
from data_manager.tokenizer_registry import DEFAULT_TOKENIZER, TOKENIZERS
from yaml_config.paths import PathText
from yaml_config.strict_model import StrictModel, Violation
from yaml_config.tagged import FromRegistry

DEFAULT_LENGTH = 256
"""Tokens of a row where the data set does not say."""
SHUFFLE_BUFFER = 1000
"""Rows of a stream among which the next one is drawn, where the data set does not say."""
Layout = Literal["cut", "packed", "whole"]


class TokensConfig(DatasetConfig):
    """What every data set of text takes, your own sources too: how documents become rows, and rows batches."""

    tokenizer: Annotated[StrictModel, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER)] = TokenizerConfig()
    """How text becomes token ids."""
    sequence_length: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Tokens of a row (256 where left out); of pairs and of whole documents, the most that a row may have. [tokens]"""
    rows: Layout | None = None
    """cut: each document is cut into rows, its last row is shorter, and no row holds two documents (the default).
    packed: documents one after another, all rows full but the last. whole: a document a row, with a token before and
    behind it (the default of smiles, and always so with pairs)."""
    document_ids: bool = False
    """Add `document_ids` to batches of packed rows: 1, 2, ... for the documents in a row, 0 at padding."""
    position_ids: bool = False
    """Add `position_ids` to batches of packed rows: they begin at 0 again with each document in a row."""
    too_long: Literal["error", "skip", "cut"] = "error"
    """A pair or a whole document of more than sequence_length tokens: stops the preparation, or is left out and
    counted, or loses its end and is counted."""
    bucketing: bool = False
    """Make batches of rows of like lengths, so that less is padding."""
    streaming: bool = False
    """Read, tokenise and pack while training, and keep no rows on disk."""
    shuffle_buffer: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Rows of a stream among which the next one is drawn when batches are shuffled (1000 where left out). [rows]"""

    @property
    def is_paired(self) -> bool:
        """True where a document is a pair of texts."""
        return False

    @property
    def layout(self) -> Layout:
        """How documents become rows, the default filled in."""
        return "whole" if self.is_paired else self.rows or "cut"

    @property
    def limit(self) -> int | None:
        """The most tokens of a row; None without limit."""
        return self.sequence_length or (None if self.layout == "whole" else DEFAULT_LENGTH)

    def violations(self) -> Iterator[Violation]:
        """Settings of rows and of streams stand where there are such rows and streams."""
        yield from super().violations()
        if self.is_paired and self.rows not in (None, "whole"):
            yield Violation(f"pairs are never {self.rows}: each is a row", ("rows",), (), "leave it out")
        for key in ("document_ids", "position_ids"):
            if getattr(self, key) and self.layout != "packed":
                message = f"{key} tell the documents of one row apart, and a row holds but one"
                yield Violation(message, (key,), (("rows",),), "rows: packed")
        if self.too_long != "error" and self.layout != "whole":
            message = f"rows that are {self.layout} take documents of any length"
            yield Violation(message, ("too_long",), (("rows",),), "leave it out, or rows: whole")
        if self.bucketing and self.streaming:
            message = "a stream is not sorted by length"
            yield Violation(message, ("bucketing",), (("streaming",),), "leave one of them out")
        if self.shuffle_buffer is not None and not self.streaming:
            message = "only a stream has a shuffle_buffer; other data is shuffled as a whole"
            yield Violation(message, ("shuffle_buffer",), (("streaming",),), "leave it out, or streaming: true")


class PairFiles(StrictModel):
    """Two files of which line N of one belongs to line N of the other."""

    source: PathText
    """File of the sentences that are read."""
    target: PathText
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
    Annotated[PathText, Tag("file")]
    | Annotated[list[PathText], AfterValidator(not_empty), Tag("files")]
    | Annotated[PairFiles, Tag("pair")],
    Discriminator(
        _kind_of_files,
        custom_error_type="files_of_split",
        custom_error_message="must be a file, a list of files or a pair {source: a.en, target: a.de}",
    ),
]
"""The files of one split: one, several, or a pair of line-aligned ones."""


def _split_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of split to files, such as {train: a.txt}")
    return value


def _one_in_all(value: dict[str, float]) -> dict[str, float]:
    if not math.isclose(sum(value.values()), 1.0, abs_tol=1e-9):
        raise ValueError(f"must add up to 1; they add up to {sum(value.values()):g}")
    return value


Shares = Annotated[
    dict[str, Annotated[float, Field(gt=0, le=1)]], AfterValidator(not_empty), AfterValidator(_one_in_all)
]


class CorpusConfig(TokensConfig):
    """Text that is read from somewhere, and may have flaws or have to be divided."""

    splits: Shares | None = None
    """Divide the only split there is: `{train: 0.9, validation: 0.05, test: 0.05}`. Documents are drawn
    at random. [share]"""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of that draw. [1]"""
    on_invalid: Literal["error", "skip"] = "error"
    """A line or row that cannot be read: stops the preparation, or is left out, counted and named."""

    @property
    def condition_names(self) -> tuple[str, ...]:
        """What the numbers of a row's `cond` are; none where it has no properties."""
        return ()

    def violations(self) -> Iterator[Violation]:
        """A seed has something to draw."""
        yield from super().violations()
        if self.split_seed != 0 and self.splits is None:
            message = "split_seed draws the splits, and there are none to draw"
            yield Violation(message, ("split_seed",), (), "splits: {train: 0.9, test: 0.1}")


class FilesConfig(CorpusConfig):
    """Text in files of your own."""

    data_files: Annotated[dict[str, SplitFiles], BeforeValidator(_split_mapping), AfterValidator(not_empty)]
    """Files of each split: `{train: a.txt, test: [b.txt, c.txt]}`; `*` and `?` match several, sorted by name.
    A relative path is looked for from the working directory, then in corpus_dir/name, then in corpus_dir.
    Files that end in .gz, .bz2 or .xz are unpacked while they are read."""

    def violations(self) -> Iterator[Violation]:
        """Splits are named, and there is one where it is to be divided."""
        yield from super().violations()
        if {"source", "target"} == set(self.data_files) and not self._pairs():
            yield Violation(
                "source and target are the two files of one split, and no split is named",
                ("data_files",),
                suggestion="data_files: {train: {source: ..., target: ...}}",
            )
        if self.splits is not None and len(self.data_files) > 1:
            message = f"splits divide one split, and data_files has {len(self.data_files)}"
            yield Violation(message, ("splits",), (("data_files",),), "leave one of them out")
        yield from self._pair_violations()

    def _pairs(self) -> list[str]:
        return [split for split, files in self.data_files.items() if isinstance(files, PairFiles)]

    def _pair_violations(self) -> Iterator[Violation]:
        """Only plain text comes as a pair of files."""
        for split in self._pairs():
            message = f"a pair of files is plain text, and source is {self.source}"
            yield Violation(message, ("data_files", split), (("source",),), "source: text")


class TextDatasetConfig(FilesConfig):
    """Your own text files in UTF-8, or line-aligned pairs of them (parallel text)."""

    source: Literal["text"] = "text"
    documents: Literal["file", "paragraph", "line"] | None = None
    """What a document is: a whole file (the default), lines up to an empty one, or each line that is not empty."""

    @property
    def is_paired(self) -> bool:
        """True where the splits are line-aligned pairs."""
        return bool(self._pairs())

    def _pair_violations(self) -> Iterator[Violation]:
        """All splits are pairs or none is; of a pair, a line is a document."""
        splits, pairs = list(self.data_files), self._pairs()
        if pairs and len(pairs) < len(splits):
            odd = next(split for split in splits if split not in pairs)
            yield Violation(
                f"split {odd!r} is plain text, while {pairs[0]!r} is a pair of files",
                ("data_files", odd),
                (("data_files", pairs[0]),),
                "give every split {source: ..., target: ...}, or make two data sets of it",
            )
        if pairs and self.documents not in (None, "line"):
            message = "line N of one file belongs to line N of the other, so a document is a line"
            yield Violation(message, ("documents",), (("data_files", pairs[0]),), "leave it out")


class EmbeddedDatasetConfig(TokensConfig):
    """The English text of Python's own documentation, `pydoc_data.topics`, which comes with every CPython."""

    source: Literal["embedded"] = "embedded"
