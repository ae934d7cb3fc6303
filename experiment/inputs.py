"""An input of the right shape for a model, for counting and for trying it once."""

from dataclasses import dataclass
from typing import Any

from experiment.config import ExperimentConfig
from model.types import PerformerParams

DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class Inputs:
    """Positional arguments of a forward pass, and what they are in words."""

    tensors: tuple[Any, ...]
    text: str


def example_inputs(config: ExperimentConfig, batch_size: int | None = None) -> Inputs:
    """Inputs of the file's own batch size and length: one for a stack, source and target for an encoder-decoder.

    Must run inside the model's own tensor mode. Raises ValueError for a model type whose input is not known.
    """
    assert config.model is not None
    stacks = [value for value in dict(config.model.config).values() if isinstance(value, PerformerParams)]
    if not stacks:
        raise ValueError(f"no example input is known for model type {config.model.model_type!r}")
    batch = batch_size or (config.training.batch_size if config.training else stacks[0].batch_size)
    length = min([_length(config), *(stack.max_length for stack in stacks if stack.max_length)])
    tensors = tuple(_input(stack, batch, length) for stack in stacks)
    return Inputs(tensors, f"batch {batch}, length {length}")


def _length(config: ExperimentConfig) -> int:
    lengths = [getattr(entry, "sequence_length", None) for entry in config.datasets or ()]
    return next((length for length in lengths if length), DEFAULT_LENGTH)


def _input(stack: PerformerParams, batch: int, length: int) -> Any:
    import torch

    if stack.input_dim is None and stack.vocab_size is not None:
        return torch.zeros(batch, length, dtype=torch.long)
    return torch.randn(batch, length, stack.input_dim or stack.d_model)
