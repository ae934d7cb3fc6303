"""Rows of a split of a run's data set, in batches for its task."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from data_manager.data_manager import DatasetManager
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from training.errors import UnfitError
from training.known_rows import find_changed_splits
from training.rows import EvalBatches, RowCollator, Rows, build_row_loader
from training.run_folder import RunFolder
from training.share import Share

_USUAL = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Split:
    """Split to measure on: its rows and their collator."""

    run: LoadedRun
    name: str
    rows: Rows
    collate: RowCollator
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


def load_split(run: LoadedRun, name: str | None, *, max_rows: int | None, seed: int) -> Split:
    """Load a split of the run's data set; without a name `test`, or else the split that training evaluated on.

    Raises UnfitError for a split that is missing or empty and for data tokenised by another tokenizer than the run's,
    DataError where the data cannot be loaded.
    """
    entry = run.dataset_config
    loaded = DatasetManager.load_dataset(entry)
    chosen = _choose_split(list(loaded), name, run.training.eval_split, f"data set {entry.name!r}")
    _check_tokenizer(run)
    data = loaded[chosen]
    if not hasattr(data, "__len__"):  # a stream, of which at most max_rows are measured
        data = list(islice(iter(data.with_format("numpy")), max_rows))
    elif max_rows is not None and max_rows < len(data):
        data = data.select(range(max_rows)) if hasattr(data, "column_names") else list(data)[:max_rows]
    if len(data) == 0:
        raise UnfitError(f"split {chosen!r} of data set {entry.name!r} has no rows")
    collate = DatasetManager.collator(entry, loaded[chosen])
    notes = tuple(find_changed_splits(RunFolder(run.folder).rows, loaded).values())
    return Split(run, chosen, Rows(data), RowCollator(collate, seed, len(data)), notes)


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
            "have changed since the run, or are others; give the files of the training by --set datasets.0...."
        )
