"""Types of an entry of `datasets` whose texts are columns: JSON, CSV, Parquet, `datasets` on disk and on the hub."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_manager.dataset_types import HubName, NotEmpty, not_empty
from data_manager.template import fields_of
from data_manager.text_types import CorpusConfig, FilesConfig, Layout
from data_manager.tokenizer_registry import TOKENIZERS
from yaml_config.paths import PathText
from yaml_config.strict_model import StrictModel, Violation

DEFAULT_COLUMN = "text"


def _template(value: str) -> str:
    if not fields_of(value):
        raise ValueError("names no column; a column stands in braces, as in {title}")
    return value


Template = Annotated[str, AfterValidator(_template)]


class PairColumns(StrictModel):
    """Two texts of one row."""

    source: NotEmpty
    """Column of what is read, or a template with columns in braces."""
    target: NotEmpty
    """Column of what is to be written, or a template."""

    def violations(self) -> Iterator[Violation]:
        """The two are different."""
        if self.source == self.target:
            yield Violation(f"source and target are the same column {self.source!r}", ("target",), (("source",),))


class ColumnsConfig(CorpusConfig):
    """Which columns make a document."""

    column: NotEmpty | None = None
    """The column that is the text (`text` where left out); `a.b` is the key b inside the column a."""
    template: Template | None = None
    """Columns joined to one text: `"{title}\\n{body}"`. A brace of the text itself is doubled."""
    pair: PairColumns | None = None
    """Parallel text: `{source: en, target: de}`, two columns or templates."""
    label: NotEmpty | None = None
    """Column with the class of a row, for classification; each row is then a whole document, and gets `labels`."""
    classes: Annotated[list[NotEmpty], Field(min_length=2)] | None = None
    """What stands in the column `label`, in the order of the classes' numbers; whole numbers from 0 where left out."""

    measured: Annotated[list[NotEmpty], AfterValidator(not_empty)] | None = None
    """Columns with numbers, the properties `cond` of a row; each row is then a whole document."""

    @property
    def layout(self) -> Layout:
        """How documents become rows; one with a class or with properties is a row."""
        return "whole" if self.label is not None or self.measured is not None else super().layout

    @property
    def condition_names(self) -> tuple[str, ...]:
        """What the numbers of `cond` are."""
        return tuple(self.measured or ())

    @property
    def is_paired(self) -> bool:
        """True where a row is a pair of texts."""
        return self.pair is not None

    @property
    def templates(self) -> tuple[str, ...]:
        """A template for the text, or two for the sides of a pair."""
        if self.pair is not None:
            return tuple(side if "{" in side else f"{{{side}}}" for side in (self.pair.source, self.pair.target))
        return (self.template or f"{{{self.column or DEFAULT_COLUMN}}}",)

    def violations(self) -> Iterator[Violation]:
        """One of column, template and pair."""
        yield from super().violations()
        given = [key for key in ("column", "template", "pair") if getattr(self, key) is not None]
        for other in given[1:]:
            yield Violation(f"{given[0]} and {other} both make the text", (other,), ((given[0],),), "keep one of them")
        if self.classes is not None and self.label is None:
            yield Violation("classes name what stands in the column `label`", ("classes",), (), "add label: COLUMN")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            yield Violation("classes names a class twice", ("classes",), (), "keep one of them")
        for key, what in (("label", "class"), ("measured", "property")):
            if getattr(self, key) is None:
                continue
            if self.pair is not None:
                yield Violation(f"a pair has no {what}", (key,), (("pair",),), "keep one of them")
            if self.rows not in (None, "whole"):
                message = f"a document with a {what} is a row, and is never {self.rows}"
                yield Violation(message, ("rows",), ((key,),), "leave it out")


class JsonDatasetConfig(ColumnsConfig, FilesConfig):
    """Files with one JSON object a line, or with one array of objects."""

    source: Literal["json"] = "json"


class CsvDatasetConfig(ColumnsConfig, FilesConfig):
    """Files of separated values; the first line names the columns."""

    source: Literal["csv"] = "csv"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between two values; "\\t" for a tabulator."""


class ParquetDatasetConfig(ColumnsConfig, FilesConfig):
    """Parquet files."""

    source: Literal["parquet"] = "parquet"


class DiskDatasetConfig(ColumnsConfig):
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

    source: Literal["disk"] = "disk"
    path: PathText
    """The folder; a relative path is looked for as those of data_files are."""


def _split_names(value: Any) -> Any:
    return not_empty(value) if isinstance(value, dict) else value


class HubDatasetConfig(ColumnsConfig):
    """A data set of the Hugging Face hub. What has been downloaded once is found without a network."""

    source: Literal["hub"] = "hub"
    repo: HubName | None = None
    """Its name on the hub, `owner/name`; the entry's own name where left out. Never a path."""
    config: NotEmpty | None = None
    """Which of its configurations, where it has several."""
    revision: NotEmpty | None = None
    """Branch, tag or commit; a commit stays what it is."""
    split: NotEmpty | Annotated[dict[str, NotEmpty], AfterValidator(_split_names)] | None = None
    """One split (`train`), or splits by the names they get here: `{train: "train[:90%]", test: "train[90%:]"}`.
    All of them where left out."""

    def violations(self) -> Iterator[Violation]:
        """What is learnt from the text cannot be learnt from a stream of the hub; slices are none of a stream's."""
        yield from super().violations()
        kind: str = getattr(self.tokenizer, "type")  # noqa: B009  (a field of every registered type)
        if self.streaming and TOKENIZERS.get(kind).learns_from_text:
            message = f"a tokenizer of {kind} is made from the whole text, which a stream never holds"
            yield Violation(message, ("tokenizer",), (("streaming",),), "tokenizer: {type: bytes}")
        if self.streaming and any("[" in name for name in self.their_splits().values()):
            yield Violation("a stream has no slices of splits", ("split",), (("streaming",),), "streaming: false")
        if self.splits is not None and len(self.their_splits()) != 1:
            message = "splits divide one split; say which"
            yield Violation(message, ("splits",), (("split",),), "split: train")

    def their_splits(self) -> dict[str, str]:
        """Our names of splits to those of the hub; empty where all are taken."""
        if isinstance(self.split, str):
            return {self.split.partition("[")[0]: self.split}
        return dict(self.split or {})
