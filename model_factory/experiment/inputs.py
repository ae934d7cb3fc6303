"""Example inputs of the right shape for a model, to count FLOPs and to run it once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.types import PerformerParams
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.cross_checks import capacity_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class Inputs:
    """Positional arguments of a model's network, with a description."""

    tensors: tuple[Any, ...]
    text: str
    length: int

    def run(self, model: "nn.Module") -> Any:
        """Run the network once: the denoiser of a diffusion model, all parts of a latent one; return its output."""
        network: Any = getattr(model, "denoise", None) or getattr(model, "network", model)
        device = next((p.device for p in model.parameters()), None)
        return network(*(tensor.to(device) for tensor in self.tensors))


def example_inputs(config: ExperimentConfig, batch_size: int | None = None, model: "nn.Module | None" = None) -> Inputs:
    """Return inputs of the file's batch size and length, no longer than the file and the network of `model` allow.

    A stack has one input, an encoder-decoder source and target, a diffusion model's denoiser tokens and sigma. Call it
    inside the model's tensor mode. Raises ValueError for a model type whose input is unknown.
    """
    assert config.model is not None
    section: Any = config.model.config
    is_diffusion = config.model.model_type == "diffusion"
    is_latent = config.model.model_type == "latent_diffusion"
    stacks: list[Any] = [v for v in dict(section).values() if isinstance(v, PerformerParams)]
    if is_diffusion:
        stacks = [section]
    elif is_latent:
        stacks = [section.decoder, section.encoder]
    if not stacks:
        raise ValueError(f"no example input is known for model type {config.model.model_type!r}")
    batch = (
        batch_size or (config.training.batch_size if config.training else getattr(stacks[0], "batch_size", None)) or 32
    )
    readers = [*stacks, section.backbone] if is_diffusion else stacks
    limits = [getattr(reader, key, None) for reader in readers for key in ("max_length", "length")]
    limits.append(getattr(getattr(model, "network", None), "max_length", None))  # of a pretrained network
    limits += [capacity_of(stack) for stack in stacks] if is_latent else []
    length: int = min([_length(config), *(limit for limit in limits if limit)])
    if is_diffusion:
        tensors: tuple[Any, ...] = _noisy(batch, length)
    elif is_latent:
        tensors = _noisy(batch, length)[:1]
    else:
        tensors = tuple(_input(stack, batch, length) for stack in stacks)
    return Inputs(tensors, f"batch {batch}, length {length}", length)


def _length(config: ExperimentConfig) -> int:
    lengths = [getattr(entry, "sequence_length", None) for entry in config.datasets or ()]
    return next((length for length in lengths if length), DEFAULT_LENGTH)


def _input(stack: PerformerParams, batch: int, length: int) -> Any:
    import torch

    if stack.input_dim is None and stack.vocab_size is not None:
        return torch.zeros(batch, length, dtype=torch.long)
    return torch.randn(batch, length, stack.input_dim or stack.d_model)


def _noisy(batch: int, length: int) -> tuple[Any, Any]:
    """Return tokens [batch, length] and a noise level [batch]."""
    import torch

    return torch.zeros(batch, length, dtype=torch.long), torch.ones(batch)
