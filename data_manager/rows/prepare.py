"""Prepare rows of token ids on disk from the corpus of a split, once for each content, tokenizer and layout."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.cache import PreparedFolder, discard, prepared_folder
from data_manager.documents import Corpus, Notes, is_paired
from data_manager.errors import DataError
from data_manager.progress import progress_counter
from data_manager.row_types import TokensConfig
from data_manager.rows.encode import build_columns, encode_corpus, row_maker
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.chat_template import chat_identity
from data_manager.tokenizers.factory import file_hashes, output_folder
from model_factory.yaml_config.schema_version import add_version, parse_json

if TYPE_CHECKING:
    import datasets

_VERSION = 3
"""Increase it when the form of rows, or of the notes on them, changes, so that older ones are not reused."""
_SOURCE_VERSION = 1
"""The same for the form of source columns."""
_RESPONSE_VERSION = 1
"""The same for the form of rows with responses."""
_ROWS, _COUNTS = "rows.arrow", "counts.json"


@dataclass(frozen=True)
class PreparedSplit:
    """Rows of one split, their numbers of documents and tokens, notes on skipped lines, and their folder.

    A stream is neither counted nor stored: `documents`, `tokens` and `folder` are None.
    """

    rows: "datasets.Dataset | datasets.IterableDataset"
    documents: int | None = None
    tokens: int | None = None
    notes: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class WithSource:
    """Request for rows with source columns, see `data_manager.rows.source`: at least the first `rows`, None for all."""

    rows: int | None = None


def prepare_split(
    config: TokensConfig, split: str, corpus: Corpus, tokenizer: Tokenizer, source: WithSource | None = None
) -> PreparedSplit:
    """Return the rows of a split, from disk if they were prepared before. Raise DataError."""
    inputs = {
        "version": _VERSION,
        "documents": corpus.inputs(file_hashes(config)),
        "tokenizer": tokenizer_identity(tokenizer),
        "rows": [config.layout, config.limit, config.too_long, is_paired(corpus)],
    }
    if names := getattr(config, "condition_names", ()):
        inputs["cond"] = list(names)
    if config.infill is not None:
        inputs["infill"] = config.infill.model_dump()
    if config.has_responses:
        inputs["responses"] = [_RESPONSE_VERSION, chat_identity(tokenizer)]
    if source is not None:
        inputs["source"] = [_SOURCE_VERSION, source.rows]

    def make(folder: Path, final: Path) -> list[str]:
        return write_rows(folder, config, split, corpus, tokenizer, source)

    def folder_of_rows() -> PreparedFolder:
        return prepared_folder(output_folder(config), inputs, make, prefix=f"{plain_name(split)}-")

    folder = folder_of_rows()
    try:
        return _load_prepared(folder)
    except (OSError, ValueError, KeyError) as error:  # the size is right, the content is not
        discard(folder, error)
        return _load_prepared(folder_of_rows())


def plain_name(split: str) -> str:
    """Return the name of a split as a safe prefix of a folder name."""
    return re.sub(r"[^\w.-]", "_", split).lstrip(".") or "split"


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """Return a text that changes whenever the ids of a tokenizer do."""
    identity = getattr(tokenizer, "identity", None)
    return str(identity()) if identity is not None else f"{type(tokenizer).__name__} {tokenizer.vocab_size}"


def write_rows(
    folder: Path,
    config: TokensConfig,
    split: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    source: WithSource | None = None,
) -> list[str]:
    """Write rows and counts into a folder; return notes on skipped lines. Raise DataError if there are no rows."""
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

    from data_manager.rows.pack import arrow_columns, arrow_type

    notes, with_source, limit = Notes(), source is not None, None if source is None else source.rows
    maker = row_maker(config, tokenizer, bool(is_paired(corpus)), notes, with_source=with_source)
    schema = pa.schema([(name, arrow_type(name)) for name in maker.columns])
    counts = {"documents": 0, "rows": 0, "tokens": 0}
    processes = config.global_config.num_proc
    parts = encode_corpus(corpus, tokenizer, config, notes, num_proc=processes, with_source=with_source)
    with (
        pa.OSFile(str(folder / _ROWS), "wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
        progress_counter(f"{config.name}: {split}", " tokens") as advance,
    ):
        for part, columns in build_columns(maker, parts):
            lists = arrow_columns(columns)
            size = sum(len(values) for name, (values, _) in columns.items() if name.endswith("_ids"))
            counts["tokens"] += size
            counts["rows"] += len(lists[maker.columns[0]])
            counts["documents"] += int(part.ends.sum()) if part is not None else 0
            if len(lists[maker.columns[0]]):
                writer.write_batch(pa.record_batch(lists, schema=schema))
            advance(size)
            if limit is not None and counts["rows"] >= limit:
                break
    if counts["rows"] == 0:
        raise empty_split(config, split, notes)
    (folder / _COUNTS).write_text(json.dumps(add_version(counts)), encoding="utf-8")
    return notes.lines(split)


def empty_split(config: TokensConfig, split: str, notes: Notes) -> DataError:
    """Return the error of a split without documents."""
    skipped = "".join(f"\n  {line}" for line in notes.lines(split))
    remedy = ""
    if getattr(config, "splits", None):
        remedy = "\nThere are too few documents to divide; for text files, documents: line or paragraph yields more."
    return DataError(f"data set {config.name!r}: split {split!r} has no documents{skipped}{remedy}")


def _load_prepared(folder: PreparedFolder) -> PreparedSplit:
    import datasets

    counts: dict[str, Any] = parse_json((folder.path / _COUNTS).read_text(encoding="utf-8"))
    rows = datasets.Dataset.from_file(str(folder.path / _ROWS))
    rows.data.validate(full=True)  # validates offsets; Arrow aborts the process for an offset beyond the file
    if len(rows) != counts["rows"]:
        raise ValueError(f"it has {len(rows)} of {counts['rows']} rows")
    return PreparedSplit(rows, counts["documents"], counts["tokens"], tuple(folder.notes), folder.path)
