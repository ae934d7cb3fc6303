"""Whether the frames of a speech corpus are as wide as what the model reads."""

from collections.abc import Iterator, Sequence
from typing import Any

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from model.types import PerformerParams
from yaml_config.errors import Problem
from yaml_config.node import Node


def feature_problems(
    model: ModelConfig, datasets: Sequence[DatasetConfig], root: Node, *, has_training: bool
) -> Iterator[Problem]:
    """A problem for each speech corpus whose features have another width than the `input_dim` of the model's first stack.

    Where `input_dim` is left out, the frames have to be as wide as d_model, unless `training` puts a layer between them
    or some of the data are text. Parts of a mixture are left to it, and widths that only the audio tells are not
    looked at.
    """
    stack = next((value for _, value in model.config if isinstance(value, PerformerParams)), None)
    parts = getattr(model.config, "parts", None)  # the types of stacks have them
    if stack is None or not parts:
        return
    reads_text = (
        has_training or stack.vocab_size is not None or any(not hasattr(entry, "features") for entry in datasets)
    )
    if stack.input_dim is None and reads_text:
        return
    mixed = {name for entry in datasets for name in getattr(entry, "datasets", ())}
    told = "is left out" if stack.input_dim is None else f"is {stack.input_dim}"
    for entry in datasets:
        features: Any = getattr(entry, "features", None)
        width = features.width() if features is not None and entry.name not in mixed else None
        if width not in (None, stack.input_dim or stack.d_model):
            message = f"input_dim {told}, and {features.type} features of data set {entry.name!r} have {width} numbers a frame"
            fix = f"input_dim: {width}"
            place = _node(root, parts[0]).shown_at
            yield Problem(place, f"model.{parts[0]}.input_dim", "relation", f"{message}; write {fix}", fix)


def _node(root: Node, part: str) -> Node:
    """Where `input_dim` stands, in the part or among the model's defaults, or else the part."""
    places = ("model", part, "input_dim"), ("model", "global_config", "input_dim"), ("model", part), ("model",)
    return next(node for place in places if (node := root.at(place)) is not None)
