"""Interleave rows of several data sets by weight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, Joined
from data_manager.errors import DataError
from data_manager.rows.lengths import row_lengths
from data_manager.rows.prepare import PreparedSplit
from data_manager.text.mixture_types import MixtureDatasetConfig

if TYPE_CHECKING:
    from data_manager.dataset_types import DatasetConfig


@dataclass(frozen=True)
class Mixture:
    """One split of a mixture: the corpora, by name, of the parts that have this split."""

    parts: Mapping[str, Corpus]

    def concatenate(self) -> Corpus:
        """Concatenate the corpora, to learn a tokenizer from them."""
        return Joined(tuple(self.parts.values()))


def load_mixtures(
    config: MixtureDatasetConfig, text_splits: "Callable[[DatasetConfig], Mapping[str, Corpus] | None]"
) -> dict[str, Mixture]:
    """Return the splits of a mixture, in the order of its parts; raise DataError for a part without text.

    `text_splits` is `data_manager.loading.text_splits`: the corpora of a part, or None if it has no text.
    """
    by_name = {entry.name: entry for entry in config.entries}
    found: dict[str, dict[str, Corpus]] = {}
    for name in config.datasets:
        if name not in by_name:
            raise DataError(f"data set {config.name!r}: give the config of its part {name!r} in entries")
        splits = text_splits(by_name[name])
        if splits is None:
            raise DataError(f"data set {config.name!r}: its part {name!r} has no text")
        for split, corpus in splits.items():
            found.setdefault(split, {})[name] = corpus
    return {split: Mixture(parts) for split, parts in found.items()}


def prepare_mixture(
    config: MixtureDatasetConfig, split: str, mixture: Mixture, prepare: "Callable[[str, Corpus], PreparedSplit]"
) -> "PreparedSplit":
    """Interleave the rows of all parts by weight if the split's name begins with `train`; else concatenate them.

    `prepare` makes the rows of one part, given a name for them and its corpus. The parts are prepared by the mixture's
    tokenizer and layout, and kept in its folder.
    """
    import datasets

    made = {name: prepare(f"{name}-{split}", corpus) for name, corpus in mixture.parts.items()}
    rows: list[Any] = [part.rows for part in made.values()]
    notes = [note for part in made.values() for note in part.notes]
    folders = [part.folder for part in made.values()]
    if len(rows) == 1 or not split.lower().startswith("train"):
        mixed = datasets.concatenate_datasets(rows)
    else:
        weights = [config.datasets[name] for name in made]
        shares = [weight / sum(weights) for weight in weights]
        mixed = datasets.interleave_datasets(rows, shares, seed=config.seed, stopping_strategy=config.stop)
        if not config.streaming:
            notes += _report_rows_used(mixed, made, split)
    return _make_split(mixed, made, tuple(notes), folders[0].parent if folders[0] else None)


def _make_split(
    mixed: Any, made: "Mapping[str, PreparedSplit]", notes: tuple[str, ...], folder: Any
) -> "PreparedSplit":
    documents = [part.documents for part in made.values()]
    if folder is None:
        return PreparedSplit(mixed, notes=notes)
    return PreparedSplit(mixed, sum(filter(None, documents)), _count_tokens(mixed), notes, folder)


def _count_tokens(rows: Any) -> int:
    return sum(int(lengths.sum()) for lengths in row_lengths(rows).values())


def _report_rows_used(mixed: Any, made: "Mapping[str, PreparedSplit]", split: str) -> list[str]:
    """Report how many rows of each part an epoch uses."""
    import numpy as np

    sizes = [len(part.rows) for part in made.values()]
    taken = np.asarray(mixed._indices.column(0)) if mixed._indices is not None else np.arange(len(mixed))
    part_of = np.searchsorted(np.cumsum(sizes), taken, side="right")
    counts = np.bincount(part_of, minlength=len(sizes))
    return [
        f"{split}: an epoch uses {count:,} rows of {name}, which has {size:,}"
        for name, count, size in zip(made, counts.tolist(), sizes, strict=True)
    ]
