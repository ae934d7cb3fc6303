"""Config types of tables with text columns: JSON, CSV, Parquet, `datasets` on disk and on the hub."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_manager.dataset_types import HubName, NotEmpty, not_empty
from data_manager.row_types import Layout
from data_manager.text.template import RESPONSE, fields_of, parse_template
from data_manager.text.types import CorpusConfig, FilesConfig
from data_manager.tokenizers.registry import TOKENIZERS
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.strict_model import StrictModel, Violation

DEFAULT_COLUMN = "text"


def _template(value: str) -> str:
    if not fields_of(value):
        raise ValueError("names no column; write a column in braces, as in {title}")
    return value


Template = Annotated[str, AfterValidator(_template)]


class PairColumns(StrictModel):
    """Two text columns of one row."""

    source: NotEmpty
    """Column of the source text, the input, or a template with columns in braces."""
    target: NotEmpty
    """Column of the target text, the output, or a template."""

    def violations(self) -> Iterator[Violation]:
        """Check that the two are different columns."""
        if self.source == self.target:
            yield Violation(f"source and target are the same column {self.source!r}", ("target",), (("source",),))


class ColumnsConfig(CorpusConfig):
    """Keys of a table: the columns of a document."""

    column: NotEmpty | None = None
    """Text column (default `text`); `a.b` is the key b inside the column a."""
    template: Template | None = None
    """Template that joins columns into one text: `"{title}\\n{body}"`. Double a literal brace. `{answer:response}` is a
    column that the model learns to write given the rest; each row is then a whole document, and gets `response_mask`.
    White space between the brace and the name belongs to the response: `"{question} A:{ answer:response}"`."""
    messages: NotEmpty | None = None
    """Column with a conversation, a list of `{role: user, content: ...}` (in CSV files as JSON). The assistant's messages are
    the responses; each row is then a whole conversation, and gets `response_mask`."""
    chat: Literal["plain", "template"] | None = None
    """Format of `messages`. template: the chat template of a hugging_face tokenizer (its default). plain: a line <role>
    before each content, and an end token after each response (the default of other tokenizers)."""
    pair: PairColumns | None = None
    """Parallel text: `{source: en, target: de}`, two columns or templates."""
    label: NotEmpty | None = None
    """Column with the class of a row, for classification; each row is then a whole document, and gets `labels`."""
    classes: Annotated[list[NotEmpty], Field(min_length=2)] | None = None
    """Values of the column `label`, in the order of the class numbers; by default the column holds numbers from 0."""

    measured: Annotated[list[NotEmpty], AfterValidator(not_empty)] | None = None
    """Numeric columns, the properties `cond` of a row; each row is then a whole document."""

    @property
    def layout(self) -> Layout:
        """Layout of rows; a document with a class, with properties or with responses is one row."""
        is_whole = self.label is not None or self.measured is not None or self.has_responses
        return "whole" if is_whole else super().layout

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the numbers in `cond`."""
        return tuple(self.measured or ())

    @property
    def is_paired(self) -> bool:
        """True if a row is a pair of texts."""
        return self.pair is not None

    @property
    def has_responses(self) -> bool:
        """True if rows name the responses in them."""
        return super().has_responses or self.names_responses

    @property
    def names_responses(self) -> bool:
        """True if columns are responses, or messages of an assistant."""
        if self.messages is not None or self.pair is not None:
            return self.messages is not None
        return RESPONSE in self.templates[0] and parse_template(self.templates[0]).has_responses

    @property
    def ends_with_response(self) -> bool:
        """True if rows with responses end with one, so that its end is to be learnt."""
        if self.infill is not None or not self.names_responses:
            return self.has_responses
        return self.messages is not None or parse_template(self.templates[0]).ends_with_response

    @property
    def templates(self) -> tuple[str, ...]:
        """Template of the text, or two templates for the sides of a pair; none for messages."""
        if self.messages is not None:
            return ()
        if self.pair is not None:
            return tuple(side if "{" in side else f"{{{side}}}" for side in (self.pair.source, self.pair.target))
        return (self.template or f"{{{self.column or DEFAULT_COLUMN}}}",)

    def violations(self) -> Iterator[Violation]:
        """Check that at most one of column, template, pair and messages is set, and the keys of classes and properties."""
        yield from super().violations()
        given = [key for key in ("column", "template", "pair", "messages") if getattr(self, key) is not None]
        for other in given[1:]:
            yield Violation(f"{given[0]} and {other} both make the text", (other,), ((given[0],),), "keep one of them")
        if self.classes is not None and self.label is None:
            yield Violation(
                "classes names the values of the column `label`; label is not set",
                ("classes",),
                (),
                "add label: COLUMN",
            )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            yield Violation("classes names a class twice", ("classes",), (), "keep one of them")
        if not given[1:]:
            yield from self._response_violations()
        for key, what in (("label", "class"), ("measured", "property")):
            if getattr(self, key) is None:
                continue
            if self.pair is not None:
                yield Violation(f"a pair cannot have a {what}", (key,), (("pair",),), "keep one of them")
            if self.rows not in (None, "whole"):
                message = f"a document with a {what} is one row, so rows cannot be {self.rows}"
                yield Violation(message, ("rows",), ((key,),), "remove it")

    def _response_violations(self) -> Iterator[Violation]:
        """Check the keys of rows with responses."""
        kind: str = getattr(self.tokenizer, "type")  # noqa: B009  (a field of every registered type)
        if self.chat is not None and self.messages is None:
            yield Violation("chat is the format of messages, which are not set", ("chat",), (), "add messages: COLUMN")
        elif self.chat == "template" and kind != "hugging_face":
            message = f"a chat template comes with a hugging_face tokenizer, and this one is of type {kind}"
            yield Violation(message, ("chat",), (("tokenizer",),), "chat: plain")
        for key, side in zip(("source", "target"), self.templates if self.pair is not None else (), strict=False):
            if RESPONSE in side and parse_template(side).has_responses:
                message = "in a pair the target is the response, without a mark"
                yield Violation(message, ("pair", key), (), "remove `:response`")
        if not self.names_responses:
            return
        origin = "messages" if self.messages is not None else "template" if self.template is not None else "column"
        if self.rows not in (None, "whole"):
            message = f"a document with responses is one row, so rows cannot be {self.rows}"
            yield Violation(message, ("rows",), ((origin,),), "remove it")
        if self.fill == "end" and not self.ends_with_response:
            message = "text follows the last response, so there is nothing to fill"
            yield Violation(message, ("fill",), ((origin,),), "remove it")
        if self.label is not None:
            message = "a row has a class to predict, or responses to write"
            yield Violation(message, ("label",), ((origin,),), "keep one of them")
        if self.infill is not None:
            message = "a row has a hole to fill, or responses to write"
            yield Violation(message, ("infill",), ((origin,),), "keep one of them")


class JsonDatasetConfig(ColumnsConfig, FilesConfig):
    """Files with one JSON object a line, or with one array of objects."""

    source: Literal["json"] = "json"


class CsvDatasetConfig(ColumnsConfig, FilesConfig):
    """CSV files; the first line names the columns, unless `column_names` does."""

    source: Literal["csv"] = "csv"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Separator of values; "\\t" for a tab."""
    column_names: Annotated[list[NotEmpty], AfterValidator(not_empty)] | None = None
    """Names of all columns, in their order, for files without a header; by default the first line names them."""

    def violations(self) -> Iterator[Violation]:
        """Check that `column_names` are unique and name the columns that are read."""
        yield from super().violations()
        names = self.column_names or []
        if double := next((name for name in names if names.count(name) > 1), None):
            yield Violation(f"column_names names {double!r} twice", ("column_names",), (), "rename one of them")
        texts = [column for template in self.templates for column in fields_of(template)]
        for column in [*texts, *filter(None, [self.messages, self.label]), *self.condition_names]:
            if names and not any(name == column or name.startswith(f"{column}.") for name in names):
                message = f"column_names lacks {column!r}, which is read"
                yield Violation(message, ("column_names",), (("column",), ("label",), ("measured",)), f"add {column}")
                return


class ParquetDatasetConfig(ColumnsConfig, FilesConfig):
    """Parquet files."""

    source: Literal["parquet"] = "parquet"


class DiskDatasetConfig(ColumnsConfig):
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

    source: Literal["disk"] = "disk"
    path: PathText
    """Folder; a relative path is searched like those of data_files."""


def _split_names(value: Any) -> Any:
    return not_empty(value) if isinstance(value, dict) else value


class HubDatasetConfig(ColumnsConfig):
    """Data set of the Hugging Face hub. A downloaded data set is found again without a network."""

    source: Literal["hub"] = "hub"
    repo: HubName | None = None
    """Name on the hub, `owner/name`; by default the entry's name. Never a path."""
    config: NotEmpty | None = None
    """Configuration, if the data set has several."""
    revision: NotEmpty | None = None
    """Branch, tag or commit; only a commit is immutable."""
    split: NotEmpty | Annotated[dict[str, NotEmpty], AfterValidator(_split_names)] | None = None
    """One split (`train`), or new names of splits to those on the hub: `{train: "train[:90%]", test: "train[90%:]"}`.
    By default all splits."""

    def violations(self) -> Iterator[Violation]:
        """Check that a stream needs no learned tokenizer and no slices, and that `splits` divides a single split."""
        yield from super().violations()
        kind: str = getattr(self.tokenizer, "type")  # noqa: B009  (a field of every registered type)
        if self.streaming and TOKENIZERS.get(kind).learns_from_text:
            message = f"a tokenizer of {kind} is learned from the whole text, which a stream does not provide"
            yield Violation(message, ("tokenizer",), (("streaming",),), "tokenizer: {type: bytes}")
        if self.streaming and any("[" in name for name in self.hub_splits().values()):
            yield Violation("a stream cannot be sliced", ("split",), (("streaming",),), "streaming: false")
        if self.splits is not None and len(self.hub_splits()) != 1:
            message = "splits divide a single split; name it"
            yield Violation(message, ("splits",), (("split",),), "split: train")

    def hub_splits(self) -> dict[str, str]:
        """Map our names of splits to those on the hub; empty if all splits are taken."""
        if isinstance(self.split, str):
            return {self.split.partition("[")[0]: self.split}
        return dict(self.split or {})
