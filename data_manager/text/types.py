"""Config types of text data sets; nothing heavy is imported."""

import math
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from data_manager.dataset_types import not_empty
from data_manager.row_types import TokensConfig
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.strict_model import StrictModel, Violation


class PairFiles(StrictModel):
    """Two line-aligned files: line N of one belongs to line N of the other."""

    source: PathText
    """File of the source sentences, the input."""
    target: PathText
    """File of the target sentences, the output."""

    def violations(self) -> Iterator[Violation]:
        """Check that the two are different files."""
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
"""Files of one split: one, several, or a line-aligned pair."""


def _split_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of split to files, such as {train: a.txt}")
    return value


def _check_sum_is_one(value: dict[str, float]) -> dict[str, float]:
    if not math.isclose(sum(value.values()), 1.0, abs_tol=1e-9):
        raise ValueError(f"must sum to 1; they sum to {sum(value.values()):g}")
    return value


Shares = Annotated[
    dict[str, Annotated[float, Field(gt=0, le=1)]], AfterValidator(not_empty), AfterValidator(_check_sum_is_one)
]


class CorpusConfig(TokensConfig):
    """Keys of text read from files or tables: splits by ratio, and invalid lines."""

    splits: Shares | None = None
    """Divide a single split by ratio: `{train: 0.9, validation: 0.05, test: 0.05}`. Documents are assigned
    at random. [share]"""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the random split. [1]"""
    on_invalid: Literal["error", "skip"] = "error"
    """An unreadable line or row: stop the preparation, or skip, count and report it."""

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the numbers in a row's `cond`; empty without properties."""
        return ()

    def violations(self) -> Iterator[Violation]:
        """Check that split_seed is only set with splits."""
        yield from super().violations()
        if self.split_seed != 0 and self.splits is None:
            message = "split_seed needs splits"
            yield Violation(message, ("split_seed",), (), "splits: {train: 0.9, test: 0.1}")


class FilesConfig(CorpusConfig):
    """Keys of text in local files."""

    data_files: Annotated[dict[str, SplitFiles], BeforeValidator(_split_mapping), AfterValidator(not_empty)]
    """Files of each split: `{train: a.txt, test: [b.txt, c.txt]}`; `*` and `?` match several files, sorted by name.
    A relative path is searched in the working directory, then in corpus_dir/name, then in corpus_dir.
    Files that end in .gz, .bz2 or .xz are decompressed while they are read."""

    def violations(self) -> Iterator[Violation]:
        """Check that splits are named, and that `splits` divides a single one."""
        yield from super().violations()
        if {"source", "target"} == set(self.data_files) and not self._pairs():
            yield Violation(
                "source and target are the two files of one split; name the split",
                ("data_files",),
                suggestion="data_files: {train: {source: ..., target: ...}}",
            )
        if self.splits is not None and len(self.data_files) > 1:
            message = f"splits divide a single split; data_files has {len(self.data_files)}"
            yield Violation(message, ("splits",), (("data_files",),), "remove one of them")
        yield from self._pair_violations()

    def _pairs(self) -> list[str]:
        return [split for split, files in self.data_files.items() if isinstance(files, PairFiles)]

    def _pair_violations(self) -> Iterator[Violation]:
        """Check that only plain text is a pair of files."""
        for split in self._pairs():
            message = f"a pair of files needs source: text; source is {self.source}"
            yield Violation(message, ("data_files", split), (("source",),), "source: text")


class TextDatasetConfig(FilesConfig):
    """Local text files in UTF-8, or line-aligned pairs of them (parallel text)."""

    source: Literal["text"] = "text"
    documents: Literal["file", "paragraph", "line"] | None = None
    """Unit of a document: a whole file (the default), lines up to an empty line, or each non-empty line."""

    @property
    def is_paired(self) -> bool:
        """True if the splits are line-aligned pairs."""
        return bool(self._pairs())

    def _pair_violations(self) -> Iterator[Violation]:
        """Check that either all splits are pairs or no split is, and that a document of a pair is a line."""
        splits, pairs = list(self.data_files), self._pairs()
        if pairs and len(pairs) < len(splits):
            odd = next(split for split in splits if split not in pairs)
            yield Violation(
                f"split {odd!r} is plain text, while {pairs[0]!r} is a pair of files",
                ("data_files", odd),
                (("data_files", pairs[0]),),
                "give every split {source: ..., target: ...}, or make two data sets",
            )
        if pairs and self.documents not in (None, "line"):
            message = "a document of a line-aligned pair is a line"
            yield Violation(message, ("documents",), (("data_files", pairs[0]),), "remove it")


class EmbeddedDatasetConfig(TokensConfig):
    """English text of Python's documentation, `pydoc_data.topics`, which comes with every CPython."""

    source: Literal["embedded"] = "embedded"
