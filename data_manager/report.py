"""What there is to say of loaded data sets: for each split size, lengths, examples, vocabulary, and where it is kept."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.lengths import Lengths
from data_manager.packing import LABELS, STARTS
from data_manager.prepare import PreparedSplit
from data_manager.tokenizer_base import Tokenizer

EXAMPLES = 3
DIVIDER = " | "
"""Stands between the documents of a packed row."""
SAMPLE = 1000
"""Rows of a stream that are looked at."""


@dataclass(frozen=True)
class SplitReport:
    """One split in numbers and examples; `size` is None for a stream, of which only the beginning was looked at."""

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


@dataclass(frozen=True)
class DatasetReport:
    """A data set and its splits; `vocabulary` is the number of ids of its tokenizer."""

    name: str
    source: str
    tokenizer: str | None
    vocabulary: int | None
    splits: list[SplitReport]

    def as_dict(self) -> dict[str, Any]:
        """Plain form for `--json`."""
        return asdict(self)


def describe(config: DatasetConfig, splits: dict[str, Any]) -> DatasetReport:
    """What there is to say of one loaded data set; raises DataError."""
    tokenizer = DatasetManager.tokenizer(config)
    known = DatasetManager.preparation(config)
    settings = getattr(config, "tokenizer", None)
    if any(getattr(data, "column_names", None) is None for data in splits.values()):
        reports = _speech_reports(config, splits)
    else:
        names = getattr(config, "classes", None)
        reports = [text_report(split, data, tokenizer, known.get(split), names) for split, data in splits.items()]
    kind = settings.type if settings is not None and tokenizer is not None else None
    return DatasetReport(config.name, config.source, kind, tokenizer.vocab_size if tokenizer else None, reports)


def text_report(
    split: str,
    data: Any,
    tokenizer: Tokenizer | None,
    known: PreparedSplit | None,
    classes: Sequence[str] | None = None,
) -> SplitReport:
    """The report of a table or a stream of rows of ids; `classes` are the names of classes, where they have some."""
    size = len(data) if hasattr(data, "__len__") else None
    columns = [name for name in data.column_names or () if name.endswith("_ids")]
    if size is None:
        beginning = list(islice(data, SAMPLE))
        lengths = {name: Lengths.of([len(row[name]) for row in beginning]) for name in columns}
        shown: Iterable[Any] = beginning[:EXAMPLES]
    else:
        from data_manager.row_lengths import row_lengths

        lengths = {name: Lengths.of(found) for name, found in row_lengths(data).items()}  # type: ignore[arg-type]
        shown = [data[index] for index in spread(size)]
    return SplitReport(
        split,
        kind="stream" if size is None else "pairs" if "source_ids" in columns else "text",
        size=size,
        unit="pairs" if "source_ids" in columns else "rows",
        lengths=lengths,
        examples=[example for row in shown for example in _decoded(row, columns, tokenizer)],
        documents=known.documents if known else None,
        tokens=known.tokens if known else None,
        classes=_class_sizes(data, classes) if size is not None and LABELS in data.column_names else None,
        left_out=known.notes if known else (),
        kept_in=(str(known.folder),) if known and known.folder else (),
    )


def _class_sizes(data: Any, names: Sequence[str] | None) -> dict[str, int]:
    """How many rows each class has, by its name or its number."""
    counts = Counter(data[LABELS])
    if names:
        return {name: counts[number] for number, name in enumerate(names)}
    return {str(number): counts[number] for number in sorted(counts)}


def spread(size: int) -> list[int]:
    """Indices of the first, a middle and the last of `size` rows, each once."""
    return sorted({0, size // 2, size - 1} - {-1})[: min(size, EXAMPLES)]


def _decoded(row: Any, columns: Sequence[str], tokenizer: Tokenizer | None) -> "list[str | tuple[str, str]]":
    if tokenizer is None or not columns:
        return []
    if STARTS in row:
        starts = [0, *map(int, row[STARTS]), len(row[columns[0]])]
        parts = [row[columns[0]][begin:end] for begin, end in pairwise(starts)]
        return [DIVIDER.join(tokenizer.decode(part) for part in parts)]
    texts = [tokenizer.decode(row[name]) for name in columns]
    return [(texts[0], texts[1])] if len(texts) == 2 else [texts[0]]


def _speech_reports(config: Any, splits: dict[str, Any]) -> list[SplitReport]:
    from data_manager.speech import speech_corpus
    from data_manager.speech_batches import transcript

    corpus = speech_corpus(config)
    reports = []
    for split, cuts in splits.items():
        seconds = [cut.duration for cut in cuts]
        chosen = set(spread(len(seconds)))
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
