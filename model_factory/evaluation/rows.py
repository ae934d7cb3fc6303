"""Rows of a split of a run's data set, in batches for its task."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.progress import progress_bar
from model_factory.evaluation.run import LoadedRun
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed
from model_factory.training.rows import EvalBatches, RowCollator, Rows, build_row_loader
from model_factory.training.run.data_hashes import find_changed_splits
from model_factory.training.run.folder import RunFolder
from model_factory.training.share import Share
from model_factory.training.splits import load_splits, select_splits

_USUAL = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Split:
    """Split to measure on: its rows and their collator."""

    run: LoadedRun
    name: str
    rows: Rows
    collate: RowCollator
    entry: DatasetConfig
    notes: tuple[str, ...] = ()
    """Notes on the data, printed beside the figures."""

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, label: str, size: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield batches on the model's device, by default of the run's batch_size, with a progress bar labelled `label`."""
        share = Share(size or self.run.training.batch_size)
        with progress_bar(label, len(self), "row") as track:
            for batch in build_row_loader(self.rows, EvalBatches(len(self), share), self.collate):
                yield move_to_device(batch, self.run.device)
                track(len(batch["noise"].place))


def load_split(
    run: LoadedRun, name: str | None, *, max_rows: int | None, seed: int, other: DatasetConfig | None = None
) -> Split:
    """Load a split of the run's data set; without a name `test`, or else the split that training evaluated on.

    `other` is another data set with the run's tokenizer, see `model_factory.evaluation.data`.

    Raises UnfitError for a split that is missing or empty, for data tokenised by another tokenizer than the run's, and
    without `other` for a run that names no data; DataError where the data cannot be loaded.
    """
    if other is None and not run.has_data:
        raise UnfitError(f"{run.folder} names no data set, as imported runs do not; measure it on files: --data FILE")
    entry = other or run.dataset_config
    loaded = load_splits(entry)
    usual = run.training.eval_split if other is None else next(iter(loaded)) if len(loaded) == 1 else None
    chosen = _choose_split(list(loaded), name, usual, f"data set {entry.name!r}")
    notes: list[str] = []
    if other is None:
        _check_tokenizer(run)
        notes += find_changed_splits(RunFolder(run.folder).rows, loaded).values()
    source = DatasetManager.load_with_source(entry, chosen, max_rows)
    data: Any = loaded[chosen]
    if source is not None:
        data = source.rows
        notes += source.notes
    if not hasattr(data, "__len__"):  # a stream, of which at most max_rows are measured
        data = list(islice(iter(data.with_format("numpy")), max_rows))
    elif max_rows is not None and max_rows < len(data):
        data = data.select(range(max_rows)) if hasattr(data, "column_names") else list(data)[:max_rows]
    if len(data) == 0:
        raise UnfitError(f"split {chosen!r} of data set {entry.name!r} has no rows")
    collate = DatasetManager.collator(entry, loaded[chosen], fill=run.task.takes_fill)
    return Split(run, chosen, Rows(data), RowCollator(collate, seed, len(data)), entry, tuple(notes))


def move_to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the tensors of a batch to a device; shapes stay the same."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _choose_split(splits: list[str], wanted: str | None, trained: str | None, where: str) -> str:
    if wanted is not None:
        if wanted not in splits:
            raise UnfitError(f"--split {wanted}: {where} has the splits {', '.join(splits)}")
        return wanted
    found = [split for word in _USUAL[:1] for split in splits if split.lower().startswith(word)]
    found += [trained] if trained in splits else []
    found += [split for word in _USUAL for split in splits if split.lower().startswith(word)]
    if not found:
        raise UnfitError(f"{where} has the splits {', '.join(splits)}; name the one to measure on: --split {splits[0]}")
    return str(found[0])


def _check_tokenizer(run: LoadedRun) -> None:
    """Raise UnfitError where the data set's tokenizer is not the one that the run was trained with."""
    now = DatasetManager.tokenizer(run.dataset_config)
    identities = [getattr(tokenizer, "identity", None) for tokenizer in (now, run.tokenizer)]
    if all(identities) and identities[0]() != identities[1]():  # type: ignore[misc]
        raise UnfitError(
            f"data set {run.dataset_config.name!r} is tokenised by another tokenizer than {run.folder / 'tokenizer'}: its files "
            "have changed since the run, or are others; give the files of the training by --set datasets.0...., or measure on "
            "other files with the run's tokenizer by --data FILE"
        )


# Rows that a run was trained on: search texts among them, and choose some at random.


_CHOSEN = 53


def training_rows(run: LoadedRun) -> Any:
    """Load the split that a run was trained on; raises DataError where it cannot be loaded."""
    return select_splits(load_splits(run.dataset_config), run.training, run.dataset_config.name).train


def find_copies(run: LoadedRun, rows: Any, texts: Collection[str]) -> set[str]:
    """Return those `texts`, normalise_text by `normalise_spaces`, that equal the text of a row."""
    tokenizer, found, wanted = run.require_tokenizer(), set[str](), frozenset(texts)
    with progress_bar("training texts", len(rows), "row") as track:
        for row in rows:
            text = normalise_spaces(tokenizer.decode(row["input_ids"]))
            if text in wanted:
                found.add(text)
            track(1)
    return found


def choose_rows(rows: Any, count: int, seed: int) -> list[list[int]]:
    """Choose `count` rows at random, or all if there are fewer; return their token ids."""
    rng = np.random.default_rng(mix_seed(seed, _CHOSEN))
    chosen = rng.choice(len(rows), size=min(count, len(rows)), replace=False)
    return [list(rows[int(index)]["input_ids"]) for index in np.sort(chosen)]


def normalise_spaces(text: str) -> str:
    """Replace all whitespace between words by one space."""
    return " ".join(text.split())
