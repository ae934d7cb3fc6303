"""Whether the data set and the splits that `training` names are there, as far as the file itself tells."""

from collections.abc import Iterator, Sequence

from data_manager.dataset_types import DatasetConfig
from training.config_types import TrainingConfig
from yaml_config.errors import Problem
from yaml_config.node import Node
from yaml_config.registry import closest


def named_data_problems(
    training: TrainingConfig | None, datasets: Sequence[DatasetConfig], root: Node
) -> Iterator[Problem]:
    """A problem for each name of `training` that no data set, or no split of the one that is trained on, has."""
    if training is None or not datasets:
        return
    names = [entry.name for entry in datasets]
    if training.dataset is not None and training.dataset not in names:
        yield _unknown(root, "dataset", training.dataset, names, "the data sets are")
        return
    chosen = [entry for entry in datasets if training.dataset in (None, entry.name)]
    known = _splits(chosen[0]) if len(chosen) == 1 else None
    for key in ("train_split", "eval_split"):
        wanted = getattr(training, key)
        if known is not None and wanted is not None and wanted not in known:
            yield _unknown(root, key, wanted, known, f"data set {chosen[0].name!r} has the splits")


def _splits(entry: DatasetConfig) -> list[str] | None:
    """The splits of a data set of files; None where only the corpus tells them."""
    files = getattr(entry, "data_files", None)
    divided = getattr(entry, "splits", None)
    return None if files is None else list(divided or files)


def _unknown(root: Node, key: str, name: str, known: list[str], told: str) -> Problem:
    near = closest(name, known)
    hint = f"; did you mean {near!r}?" if near else ""
    node = root.at(("training", key)) or root
    message = f"training names {name!r}, and {told} {', '.join(known)}{hint}"
    return Problem(node.shown_at, f"training.{key}", "relation", message, near)
