"""Rows of one split of the data that a run was trained on, in batches as its task takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from data_manager.data_manager import DatasetManager
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from training.errors import UnfitError
from training.known_rows import changed_rows
from training.rows import EvalBatches, RowCollator, Rows, row_loader
from training.run_folder import RunFolder
from training.share import Share

_USUAL = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Split:
    """Rows to measure on, with what makes batches of them."""

    run: LoadedRun
    name: str
    rows: Rows
    collate: RowCollator
    notes: tuple[str, ...] = ()
    """What is to be said of the data beside the figures."""

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, label: str, size: int | None = None) -> Iterator[dict[str, Any]]:
        """Batches on the model's device, of the run's batch_size where `size` is left out; a bar on a terminal."""
        share = Share(size or self.run.training.batch_size)
        with progress_bar(label, len(self), "row") as track:
            for batch in row_loader(self.rows, EvalBatches(len(self), share), self.collate):
                yield move_to_device(batch, self.run.device)
                track(len(batch["noise"].place))


def load_split(run: LoadedRun, name: str | None, *, max_rows: int | None, seed: int) -> Split:
    """A split of the run's data set, `test` or else the one it was evaluated on where no name is given.

    Raises UnfitError for a split that is not there or has no rows, and where the data are tokenised otherwise than those
    that the run was trained on; DataError where they cannot be had.
    """
    entry = run.dataset_config
    loaded = DatasetManager.load_dataset(entry)
    chosen = _chosen(list(loaded), name, run.training.eval_split, f"data set {entry.name!r}")
    _check_tokenizer(run)
    data = loaded[chosen]
    if not hasattr(data, "__len__"):  # a stream, which is measured as far as it is asked for
        data = list(islice(iter(data.with_format("numpy")), max_rows))
    elif max_rows is not None and max_rows < len(data):
        data = data.select(range(max_rows)) if hasattr(data, "column_names") else list(data)[:max_rows]
    if len(data) == 0:
        raise UnfitError(f"split {chosen!r} of data set {entry.name!r} has no rows")
    collate = DatasetManager.collator(entry, loaded[chosen])
    notes = tuple(changed_rows(RunFolder(run.folder).rows, loaded).values())
    return Split(run, chosen, Rows(data), RowCollator(collate, seed, len(data)), notes)


def move_to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _chosen(splits: list[str], wanted: str | None, trained: str | None, where: str) -> str:
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
    """The ids of the data are those that the model learnt."""
    now = DatasetManager.tokenizer(run.dataset_config)
    identities = [getattr(tokenizer, "identity", None) for tokenizer in (now, run.tokenizer)]
    if all(identities) and identities[0]() != identities[1]():  # type: ignore[misc]
        raise UnfitError(
            f"data set {run.dataset_config.name!r} is tokenised by another tokenizer than {run.folder / 'tokenizer'}: its files "
            "have changed since the run, or are others; name those that it was trained on by --set datasets.0...."
        )
