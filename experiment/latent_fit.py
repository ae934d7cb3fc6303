"""Whether the rows of a data set fit a latent diffusion model: whole texts, no longer than its parts can read."""

from collections.abc import Iterator, Sequence
from typing import Any

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from training.config_types import TrainingConfig
from yaml_config.errors import Problem
from yaml_config.node import Node


def latent_problems(
    model: ModelConfig, datasets: Sequence[DatasetConfig], root: Node, training: TrainingConfig | None
) -> Iterator[Problem]:
    """Problems between the model, the data set that is trained on, and stages; none for other model types."""
    if model.model_type != "latent_diffusion":
        if training is not None and training.stages is not None:
            message = f"stages are of latent diffusion, and this model is of type {model.model_type}"
            yield _problem(root, ("training", "stages"), message, "leave it out")
        return
    wanted = training.dataset if training else None
    chosen: list[Any] = [entry for entry in datasets if wanted in (None, entry.name)]
    if len(chosen) != 1 or not hasattr(chosen[0], "layout"):
        return
    index = list(datasets).index(chosen[0])
    entry = chosen[0]
    if entry.is_paired:
        message = "a latent is of one text, and this data set has pairs; give it one of the two files alone"
        yield _problem(root, ("datasets", index), message, "data_files: {train: train.en}")
    elif entry.layout != "whole":
        message = f"a latent is of a whole text, and rows are {entry.layout}"
        place: tuple[str | int, ...] = ("datasets", index, "rows")
        place = place if root.at(place) else place[:2]
        yield _problem(root, place, message, "rows: whole")
    section: Any = model.config
    for name in ("encoder", "decoder"):
        room = _room(getattr(section, name))
        if room is not None and entry.limit is not None and entry.limit > room:
            message = f"rows have up to {entry.limit} tokens, and the {name} has {room} places for them"
            place = ("model", name, "max_length")
            place = place if root.at(place) else place[:2]
            yield _problem(root, place, message, f"sequence_length: {room}, or a longer max_length")


def _room(part: Any) -> int | None:
    """Tokens that a part from scratch can read; None where nothing is known or there is no limit."""
    if getattr(part, "path", None) is not None or not hasattr(part, "max_length"):
        return None
    own: int | None = part.max_length
    if own is None:
        own = 512 if hasattr(part, "hidden_size") else None
    if own is None:
        return None
    slots = 0
    if getattr(part, "latent_as_gpt_memory", False):
        slots = 1
    return own - slots - getattr(part, "slots_in_front", 0)


def _problem(root: Node, path: tuple[str | int, ...], message: str, fix: str) -> Problem:
    node = root.at(path) or root
    return Problem(node.shown_at, ".".join(map(str, path)), "relation", f"{message}; try {fix}", fix)
