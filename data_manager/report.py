"""Report on loaded data sets: size, lengths, examples, vocabulary and cache folder of each split."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from typing import Any

from data_manager import loading
from data_manager.dataset_types import DatasetConfig
from data_manager.row_types import RESPONSES, TokensConfig
from data_manager.rows.lengths import Lengths, row_lengths, true_counts
from data_manager.rows.pack import LABELS, STARTS
from data_manager.rows.prepare import PreparedSplit
from data_manager.speech.transcripts import transcript
from data_manager.tokenizers.base import Tokenizer

EXAMPLES = 3
DIVIDER = " | "
"""Separator between the documents of a packed row."""
RESPONSE = ">>{}<<"
"""Marks around a response in an example."""
RESPONSE_LENGTHS = "responses"
"""Name of the lengths of responses, with their end tokens."""
STREAM_SAMPLE = 1000
"""Number of rows read from a stream for the report."""


@dataclass(frozen=True)
class SplitReport:
    """Statistics and examples of one split; `size` is None for a stream, of which only the first rows were read."""

    split: str
    kind: str
    size: int | None
    unit: str
    lengths: dict[str, Lengths | None]
    examples: list[str | tuple[str, str]]
    documents: int | None = None
    tokens: int | None = None
    hours: float | None = None
    classes: dict[str, int] | None = None
    left_out: tuple[str, ...] = ()
    kept_in: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetReport:
    """Report of a data set and its splits; `vocabulary` is the size of its tokenizer's vocabulary."""

    name: str
    source: str
    tokenizer: str | None
    vocabulary: int | None
    splits: list[SplitReport]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return asdict(self)


def describe(config: DatasetConfig, splits: dict[str, Any]) -> DatasetReport:
    """Build the report of one loaded data set, whose config has its source's config type; raise DataError."""
    tokenizer = loading.tokenizer_for(config)
    prepared = loading.prepared_splits(config)
    settings = getattr(config, "tokenizer", None)
    if any(getattr(data, "column_names", None) is None for data in splits.values()):
        reports = _report_speech(config, splits)
    else:
        names = getattr(config, "classes", None)
        found = [
            report_text_split(split, data, tokenizer, prepared.get(split), names) for split, data in splits.items()
        ]
        reports = [replace(report, hints=(*report.hints, *_hints(report, config))) for report in found]
    kind = settings.type if settings is not None and tokenizer is not None else None
    return DatasetReport(config.name, config.source, kind, tokenizer.vocab_size if tokenizer else None, reports)


def report_text_split(
    split: str,
    data: Any,
    tokenizer: Tokenizer | None,
    prepared: PreparedSplit | None,
    classes: Sequence[str] | None = None,
) -> SplitReport:
    """Report on a table or a stream of token id rows; `classes` are the class names, if any."""
    size = len(data) if hasattr(data, "__len__") else None
    columns = [name for name in data.column_names or () if name.endswith("_ids")]
    if size is None:
        first_rows = list(islice(data, STREAM_SAMPLE))
        lengths = {name: Lengths.of([len(row[name]) for row in first_rows]) for name in columns}
        if RESPONSES in data.column_names:
            lengths[RESPONSE_LENGTHS] = Lengths.of([sum(map(bool, row[RESPONSES])) for row in first_rows])
        shown: Iterable[Any] = first_rows[:EXAMPLES]
    else:
        lengths = {name: Lengths.of(found) for name, found in row_lengths(data).items()}  # type: ignore[arg-type]
        if RESPONSES in data.column_names:
            lengths[RESPONSE_LENGTHS] = Lengths.of(true_counts(data, RESPONSES))  # type: ignore[arg-type]
        shown = [data[index] for index in example_indices(size)]
    inner = "text follows a response, so a diffusion model is given its length"
    return SplitReport(
        split,
        kind="stream" if size is None else "pairs" if "source_ids" in columns else "text",
        size=size,
        unit="pairs" if "source_ids" in columns else "rows",
        lengths=lengths,
        examples=[example for row in shown for example in _decode_examples(row, columns, tokenizer)],
        documents=prepared.documents if prepared else None,
        tokens=prepared.tokens if prepared else None,
        classes=_count_classes(data, classes) if size is not None and LABELS in data.column_names else None,
        left_out=prepared.notes if prepared else (),
        kept_in=(str(prepared.folder),) if prepared and prepared.folder else (),
        hints=(inner,) if any(len(_response_edges(row)) > 3 for row in shown) else (),
    )


def _hints(report: SplitReport, config: DatasetConfig) -> Iterator[str]:
    """Yield what a user may not have meant: a whole corpus as one document."""
    is_default = getattr(config, "documents", "") is None
    if is_default and report.kind == "text" and report.documents == 1 and (report.size or 0) > 1:
        yield "the whole file is one document; documents: paragraph or documents: line divides it"
    if isinstance(config, TokensConfig) and config.is_filled:
        yield f"batches are filled with end tokens up to {config.limit}, which are learnt; a decoder reads the rows as they are"


def _count_classes(data: Any, names: Sequence[str] | None) -> dict[str, int]:
    """Count the rows of each class, by name or number."""
    counts = Counter(data[LABELS])
    if names:
        return {name: counts[number] for number, name in enumerate(names)}
    return {str(number): counts[number] for number in sorted(counts)}


def example_indices(size: int) -> list[int]:
    """Return the distinct indices of the first, middle and last of `size` rows."""
    return sorted({0, size // 2, size - 1} - {-1})[: min(size, EXAMPLES)]


def _decode_examples(row: Any, columns: Sequence[str], tokenizer: Tokenizer | None) -> "list[str | tuple[str, str]]":
    if tokenizer is None or not columns:
        return []
    if RESPONSES in row:
        return [_mark_responses(row, tokenizer)]
    if STARTS in row:
        starts = [0, *map(int, row[STARTS]), len(row[columns[0]])]
        parts = [row[columns[0]][begin:end] for begin, end in pairwise(starts)]
        return [DIVIDER.join(tokenizer.decode(part) for part in parts)]
    texts = [tokenizer.decode(row[name]) for name in columns]
    return [(texts[0], texts[1])] if len(texts) == 2 else [texts[0]]


def _response_edges(row: Any) -> list[int]:
    """Return where the responses of a row begin and end, with the beginning and the end of the row; empty without them."""
    mask = list(map(bool, row[RESPONSES])) if RESPONSES in row else []
    return [place for place in range(len(mask) + 1) if place in (0, len(mask)) or mask[place] != mask[place - 1]]


def _mark_responses(row: Any, tokenizer: Tokenizer) -> str:
    """Return the text of a row with marks around its responses."""
    parts = [
        (tokenizer.decode(row["input_ids"][begin:end]), row[RESPONSES][begin])
        for begin, end in pairwise(_response_edges(row))
    ]
    return "".join(RESPONSE.format(text) if is_response else text for text, is_response in parts)


def _report_speech(config: Any, splits: dict[str, Any]) -> list[SplitReport]:
    from data_manager.speech.corpus import get_speech_corpus

    corpus = get_speech_corpus(config)
    reports = []
    for split, cuts in splits.items():
        seconds = [cut.duration for cut in cuts]
        chosen = set(example_indices(len(seconds)))
        texts: list[Any] = [transcript(cut) for index, cut in enumerate(cuts) if index in chosen]
        reports.append(
            SplitReport(
                split,
                kind="speech",
                size=len(seconds),
                unit="cuts",
                lengths={"seconds": Lengths.of(seconds)},
                examples=texts,
                hours=sum(seconds) / 3600,
                left_out=tuple(corpus.notes) if split == next(iter(splits)) else (),
                kept_in=tuple(map(str, corpus.folders)),
            )
        )
    return reports
