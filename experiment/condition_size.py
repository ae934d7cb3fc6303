"""Whether a data set gives what the model's condition asks for: as many properties, or as many classes."""

from collections.abc import Iterator, Sequence
from typing import Any

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from yaml_config.errors import Problem
from yaml_config.node import Node


def condition_problems(
    model: ModelConfig, datasets: Sequence[DatasetConfig], root: Node, trained_on: str | None
) -> Iterator[Problem]:
    """A problem where the data set that is trained on has another number of properties or of named classes.

    Nothing is said of a file with several data sets that names none to train on, nor of a source of a user's own.
    """
    condition: Any = getattr(model.config, "condition", None)
    chosen = [entry for entry in datasets if trained_on in (None, entry.name)]
    if condition is None or len(chosen) != 1:
        return
    entry: Any = chosen[0]
    if condition.size is not None and hasattr(entry, "condition_names"):
        names = entry.condition_names
        if len(names) != condition.size:
            told = f"data set {entry.name!r} gives {len(names) or 'none'}" + (f": {', '.join(names)}" if names else "")
            fix = f"size: {len(names)}" if names else "properties: [logp, qed] in a data set of smiles"
            message = f"a condition of size {condition.size} asks for as many properties of each row, and {told}"
            yield _problem(root, "size", message, fix)
    classes = getattr(entry, "classes", None)
    if condition.num_classes is not None and classes and len(classes) != condition.num_classes:
        message = f"num_classes is {condition.num_classes}, and data set {entry.name!r} names {len(classes)} classes"
        yield _problem(root, "num_classes", message, f"num_classes: {len(classes)}")


def _problem(root: Node, key: str, message: str, fix: str) -> Problem:
    node = root.at(("model", "condition", key)) or root.at(("model", "condition")) or root
    return Problem(node.shown_at, f"model.condition.{key}", "relation", f"{message}; try {fix}", fix)
