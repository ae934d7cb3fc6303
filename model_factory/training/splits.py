"""Selection of the data set, its train and evaluation splits, and the task."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.rows.shards import MappedRows
from data_manager.rows.token_stream import TokenStream
from model.discrete.types import ConditionConfig
from model.model_types import ModelConfig
from model_factory.experiment.check_context import EVALUATION_SPLITS, TRAIN_SPLITS, find_split
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.task_registry import TASKS, choose_task
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.errors import UnfitError

Row = Any
"""One row: a dictionary of a table's columns, or a lhotse cut."""


class Split(Protocol):
    """Rows of one split: a `datasets.Dataset` or lhotse cuts."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Row]: ...


class Table(Split, Protocol):
    """Split whose rows are columns of an Arrow table (`datasets.Dataset`)."""

    column_names: list[str]

    def __getitem__(self, key: int | str | list[int]) -> Any: ...

    def with_format(self, name: str) -> "Table":
        """Return the table with its values converted to `name` (numpy, arrow, torch)."""
        ...

    def select(self, indices: Iterable[int]) -> "Table":
        """Return a table of the rows at `indices`."""
        ...


def load_splits(entry: DatasetConfig) -> dict[str, Split | TokenStream]:
    """Load the splits of a data set to train on, with `streaming` as streams of rows; raise DataError."""
    if getattr(entry, "streaming", False):
        return dict(DatasetManager.open_streams(entry))
    found: dict[str, Any] = DatasetManager.load_datasets([entry])[entry.name]
    return found


def is_table(rows: Split | TokenStream) -> TypeGuard[Table]:
    """Return True for a `datasets.Dataset`, False for lhotse cuts."""
    return hasattr(rows, "column_names")


@dataclass(frozen=True)
class Splits:
    """Rows to train on and rows to evaluate on (None: no evaluation)."""

    train: Split | TokenStream
    evaluation: Split | TokenStream | None

    @property
    def train_rows(self) -> int | None:
        """Return the number of rows to train on, None for a stream."""
        return None if isinstance(self.train, TokenStream) else len(self.train)

    @cached_property
    def sample(self) -> Split:
        """Return the rows to train on, of a stream and of memory-mapped shards the first of them."""
        return self.train.head() if isinstance(self.train, TokenStream | MappedRows) else self.train

    def contains(self, rows: Split | TokenStream) -> bool:
        """Return True if `rows` is the train or the evaluation split."""
        return rows is self.train or rows is self.evaluation

    @property
    def columns(self) -> list[str]:
        """Return the column names of the train split; lhotse cuts have features and text."""
        return list(self.train.column_names) if is_table(self.train) else ["features", "text"]


def select_dataset(config: ExperimentConfig) -> DatasetConfig:
    """Return the data set that `training.dataset` names, or the only one; raise UnfitError if it is not clear which."""
    entries = config.datasets or []
    wanted = config.training.dataset if config.training else None
    names = ", ".join(entry.name for entry in entries)
    if wanted is None and len(entries) > 1:
        raise UnfitError(f"there are {len(entries)} data sets ({names}); set training.dataset to one of them")
    found = [entry for entry in entries if wanted is None or entry.name == wanted]
    if not found:
        raise UnfitError(f"training.dataset is {wanted!r}, and the data sets are {names}")
    loading = getattr(found[0], "loading", None)
    if getattr(loading, "max_duration", None) is not None:
        raise UnfitError(
            f"data set {found[0].name!r} sets batches by duration (loading.max_duration), and a training step "
            "has training.batch_size rows; leave max_duration out"
        )
    return found[0]


def describe_large_batch(train: Split | TokenStream, settings: TrainingConfig) -> str | None:
    """Return the note about a batch size above the number of rows, None if there are enough rows."""
    rows = settings.batch_size if isinstance(train, TokenStream) else len(train)
    if settings.batch_size <= rows:
        return None
    return (
        f"training.batch_size is {settings.batch_size:,}, and there are {rows:,} rows: each step trains on all of them"
    )


def select_splits(loaded: Mapping[str, Split | TokenStream], settings: TrainingConfig, name: str) -> Splits:
    """Select the splits that `settings` names, or those with usual names; raise UnfitError if one is missing."""
    train = _find_split(loaded, settings.train_split, TRAIN_SPLITS, "train_split", name)
    evaluation = _find_split(loaded, settings.eval_split, EVALUATION_SPLITS, "eval_split", name)
    if train is None:
        if len(loaded) != 1:
            raise UnfitError(
                f"data set {name!r} has the splits {', '.join(loaded)}; set training.train_split to one of them"
            )
        train = next(iter(loaded))
    rows = loaded[train]
    if not isinstance(rows, TokenStream) and not hasattr(rows, "__len__"):
        raise UnfitError(
            f"data set {name!r} is a stream that its source made, and training has to count its rows to shuffle them; with "
            "streaming: true, training reads a stream of text"
        )
    if is_empty(rows):
        raise UnfitError(f"split {train!r} of data set {name!r} has no rows")
    shown = None if evaluation is None else loaded[evaluation]
    return Splits(rows, None if shown is None or is_empty(shown) else shown)


def is_empty(rows: Split | TokenStream) -> bool:
    """Return True for a split without rows; a stream has some."""
    return not isinstance(rows, TokenStream) and len(rows) == 0


def _find_split(
    loaded: Mapping[str, Split | TokenStream], wanted: str | None, usual: tuple[str, ...], key: str, name: str
) -> str | None:
    """Return the split that is used, as the check of the file does; raise UnfitError if the wanted one is missing."""
    found = find_split(list(loaded), wanted, usual)
    if wanted is not None and found is None:
        raise UnfitError(f"training.{key} is {wanted!r}, and data set {name!r} has the splits {', '.join(loaded)}")
    return found


def select_task(config: ExperimentConfig, columns: list[str]) -> str:
    """Return the task that the file names, or the first that fits; raise UnfitError if model or data do not fit."""
    assert config.model is not None
    kind, wanted = config.model.model_type, config.training.task_name if config.training else None
    if wanted is not None:
        entry = TASKS.get(wanted)
        if not entry.fits(kind, columns):
            raise UnfitError(
                f"training.task {wanted} takes {entry.describe()}; the model is of type {kind}, and rows have "
                f"{', '.join(columns)}"
            )
        return wanted
    found = choose_task(kind, columns)
    if found is None:
        known = "".join(f"\n  {name}: {TASKS.get(name).describe()}" for name in TASKS)
        raise UnfitError(
            f"no task trains a model of type {kind} on rows with {', '.join(columns)}; the tasks are{known}"
        )
    return found


def count_classes(rows: Table | TokenStream, entry: DatasetConfig) -> int:
    """Return the number of classes of rows with `labels`; raise UnfitError for a stream of a data set without `classes`."""
    named = getattr(entry, "classes", None)
    if named:
        return len(named)
    if isinstance(rows, TokenStream):
        raise UnfitError("a stream is not read before it trains, so its classes are unknown; set training.num_labels")
    if isinstance(rows, MappedRows):
        return rows.num_labels or 2
    return max(2, int(max(rows["labels"])) + 1)


# Normalisation of a condition's properties: mean and standard deviation over the training rows.


def fill_condition_scale(model: ModelConfig, rows: Split) -> ModelConfig:
    """Return a copy whose condition has `mean` and `std` of the column `cond` of `rows`, unless they are set.

    A constant property gets standard deviation 1. The config is returned unchanged if the model has no condition on
    properties, or if the rows have no properties or another number of them.
    """
    condition: ConditionConfig | None = getattr(model.config, "condition", None)
    if condition is None or condition.size is None or condition.mean is not None:
        return model
    if not is_table(rows) or "cond" not in rows.column_names:
        return model
    values = np.array(rows.with_format("numpy")["cond"][:], np.float64)
    if values.shape[1:] != (condition.size,):
        return model
    mean, std = values.mean(0), values.std(0)
    # six digits are precise enough, and easy to read in config.yml
    scale = {"mean": _rounded(mean), "std": _rounded(np.where(std > 0, std, 1.0))}
    section = model.config.model_copy(update={"condition": condition.model_copy(update=scale)})
    return model.model_copy(update={"config": section})


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
