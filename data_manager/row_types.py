"""Settings that every source of token rows has: lengths, layout, splits and the tokenizer's section."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.tokenizers.registry import DEFAULT_TOKENIZER, TOKENIZERS
from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.strict_model import StrictModel, Violation

DEFAULT_LENGTH = 256
"""Default number of tokens in a row."""


RESPONSES = "response_mask"
"""Column of rows with responses: bools, one for each of `input_ids`, True at the tokens that alone are learnt."""


SHUFFLE_BUFFER = 1000
"""Default number of rows in the shuffle buffer of a stream."""


_WITHOUT_HOLES = {"label": "a document with a class", "measured": "a document with properties"}
"""Keys of data sets whose rows have no holes."""
Layout = Literal["cut", "packed", "whole"]


class InfillConfig(StrictModel):
    """Settings of rows for holes of unknown length, which `[[*]]` marks in a prompt."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of the documents with a hole at a random position. The hole of the others is the whole document, which teaches
    a model to write texts without a prompt. [1]"""
    copies: Annotated[int, Field(ge=1, le=1000)] = 1
    """Rows of each document, each with another hole. [rows]"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the holes. [1]"""


class TokensConfig(DatasetConfig):
    """Keys of every text data set, custom sources included: how documents become rows, and rows batches."""

    tokenizer: Annotated[StrictModel, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER)] = TokenizerConfig()
    """Tokenizer of the text."""
    sequence_length: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Tokens in a row (default 256); for pairs and whole documents, the maximum length of a row. [tokens]"""
    rows: Layout | None = None
    """cut: each document is cut into rows, its last row is shorter, and no row holds two documents (the default).
    packed: documents are concatenated, and all rows but the last are full. whole: one document in each row, between bos
    and eos (the default of smiles, and the only layout of pairs)."""
    document_ids: bool = False
    """Isolate the documents of packed rows: a token attends to its own document alone, and positions begin at 0 again
    with each. Batches get `document_ids`: 1, 2, ... for the documents in a row, 0 at padding."""
    position_ids: bool = False
    """Add `position_ids` to batches of packed rows, for custom tasks: they begin at 0 again with each document in a row.
    Built-in models have such positions with document_ids."""
    too_long: Literal["error", "skip", "cut"] = "error"
    """A pair or a whole document of more than sequence_length tokens: stop the preparation, skip it and count it, or
    truncate it and count it."""
    infill: InfillConfig | None = None
    """Rows for holes of unknown length, `[[*]]` in a prompt: the text before the hole, the text after it, and the text of
    the hole, which is learned with its end; sequence_length tokens in all. `infill: {}` takes the defaults."""
    fill: Literal["end", "hidden"] | None = None
    """Places of a whole row after its end. end: end tokens up to sequence_length, which a diffusion model has to predict,
    so that its bound counts the length of a text; the default of rows with responses. hidden: padding that a mask hides, so
    that the bound is given the length; the default of other rows, and what a decoder always reads."""
    bucketing: bool = False
    """Batch rows of similar lengths, which reduces padding."""
    streaming: bool = False
    """Read, tokenise and pack during training, without rows on disk and without a pass over the text first."""
    shards: PathText | None = None
    """Folder of prepared rows that `model-factory data --write-shards FOLDER` wrote from this entry. They are mapped into
    memory, with their tokenizer; text is not read."""
    shuffle_buffer: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Size of the shuffle buffer of a stream (default 1000); training shuffles in blocks of this size. [rows]"""

    @property
    def is_paired(self) -> bool:
        """True if a document is a pair of texts."""
        return False

    @property
    def has_responses(self) -> bool:
        """True if rows name the responses in them, which alone are learnt; they have the column `response_mask`."""
        return self.infill is not None

    @property
    def ends_with_response(self) -> bool:
        """True if rows with responses end with one, so that its end is to be learnt."""
        return self.has_responses

    @property
    def is_filled(self) -> bool:
        """True if batches are filled with end tokens up to `limit`, see `fill`."""
        if self.fill is not None or self.is_paired or self.layout != "whole":
            return self.fill == "end"
        return self.ends_with_response

    @property
    def layout(self) -> Layout:
        """Layout of rows, with the default filled in."""
        return "whole" if self.is_paired or self.infill is not None else self.rows or "cut"

    @property
    def document_rows(self) -> bool:
        """True if a model learns single documents: one in each row, or those of packed rows in isolation."""
        return self.layout == "whole" or self.document_ids

    @property
    def limit(self) -> int | None:
        """Maximum number of tokens in a row; None without a limit."""
        is_free = self.layout == "whole" and not self.has_responses
        return self.sequence_length or (None if is_free else DEFAULT_LENGTH)

    def violations(self) -> Iterator[Violation]:
        """Check that keys of row layouts and of streams are only set for such layouts and streams."""
        yield from super().violations()
        if self.is_paired and self.rows not in (None, "whole"):
            yield Violation(f"pairs cannot be {self.rows}: each pair is one row", ("rows",), (), "remove it")
        for key in ("document_ids", "position_ids"):
            if getattr(self, key) and self.layout != "packed":
                message = f"{key} need packed rows; with this layout a row holds one document"
                yield Violation(message, (key,), (("rows",),), "rows: packed")
        if self.too_long != "error" and self.layout != "whole":
            message = f"too_long has no effect on {self.layout} rows, which take documents of any length"
            yield Violation(message, ("too_long",), (("rows",),), "remove it, or rows: whole")
        yield from self._infill_violations()
        if self.fill is not None and self.is_paired:
            message = "fill is for rows of one text; the task that reads pairs fills their targets"
            yield Violation(message, ("fill",), (), "remove it")
        elif self.fill is not None and self.layout != "whole":
            message = f"fill is for whole documents, and rows are {self.layout}"
            yield Violation(message, ("fill",), (("rows",),), "remove it, or rows: whole")
        elif self.is_filled and self.limit is None:
            message = "rows are filled up to sequence_length, which is not set"
            yield Violation(message, ("fill",), (("sequence_length",),), f"sequence_length: {DEFAULT_LENGTH}")
        if self.fill == "end" and self.bucketing:
            message = "filled rows have one length, and bucketing batches rows of similar lengths"
            yield Violation(message, ("bucketing",), (("fill",),), "remove it")
        if self.bucketing and self.streaming:
            message = "a stream cannot be bucketed by length"
            yield Violation(message, ("bucketing",), (("streaming",),), "remove one of them")
        if self.shards is not None and self.streaming:
            message = "shards are rows on disk, which need no stream"
            yield Violation(message, ("streaming",), (("shards",),), "remove one of them")
        if self.shuffle_buffer is not None and not self.streaming:
            message = "only a stream has a shuffle_buffer; other data are shuffled completely"
            yield Violation(message, ("shuffle_buffer",), (("streaming",),), "remove it, or streaming: true")

    def _infill_violations(self) -> Iterator[Violation]:
        """Check the keys of rows with holes."""
        if self.infill is None:
            return
        for key, what in _WITHOUT_HOLES.items():
            if getattr(self, key, None):
                yield Violation(f"{what} has no hole to fill", ("infill",), ((key,),), "remove it")
        if self.is_paired:
            yield Violation("a pair has no hole to fill", ("infill",), (), "remove it")
        elif self.rows not in (None, "whole"):
            message = f"a document with a hole is one row, so rows cannot be {self.rows}"
            yield Violation(message, ("rows",), (("infill",),), "remove it")
        if self.fill == "hidden":
            message = "a row whose fill is hidden tells the length of its hole"
            yield Violation(message, ("fill",), (("infill",),), "remove it")
