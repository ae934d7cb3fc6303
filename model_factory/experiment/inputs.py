"""Example inputs of a model, to count FLOPs and to run it once, and the check of shapes that do not fit.

Shapes are run on tensors without storage, so that they are found before memory is spent.
"""

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.model_factory import create_model
from model.types import PerformerParams
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.cross_checks import capacity_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_LENGTH = 256
_SMALL = 2**28
"""Bytes of weights below which the real model decides about an error that only tensors without storage may raise."""


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
        tensors = [tensor.to(device) for tensor in self.tensors]
        if getattr(model, "has_encoder", False):  # the source is as long as the target
            return network(*tensors, **model.encode(tensors[0]))  # type: ignore[operator]
        return network(*tensors)


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


def check_shapes(config: ExperimentConfig) -> None:
    """Build a model of fake tensors and run it once; allocate nothing.

    Raises ValueError if its output is not as wide as the vocabulary, or if its weights exceed the machine's memory, and
    any error of a network whose shapes do not fit. Custom code that fake tensors cannot follow is left to the real model.
    """
    assert config.model is not None
    from torch._subclasses import fake_tensor

    from model.checkpoint import with_device

    weights, log = 0, logging.getLogger(fake_tensor.__name__)
    level = log.level
    log.setLevel(logging.CRITICAL)  # it prints the traceback of each error
    try:
        with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            model = create_model(with_device(config.model, "cpu"))
            weights = sum(value.numel() * value.element_size() for value in model.parameters())
            output = example_inputs(config, batch_size=2, model=model).run(model)
    except ValueError:
        raise
    except Exception:
        if weights > _SMALL:
            raise
        return  # cheap to build: the real model has the last word
    finally:
        log.setLevel(level)
    check_output_width(config, model, output)
    _check_memory(weights, getattr(config.model.config, "device", None))


def check_output_width(config: ExperimentConfig, model: Any, output: Any) -> None:
    """Raise ValueError if the last axis of the logits is not the vocabulary of the model."""
    assert config.model is not None
    section, kind = config.model.config, config.model.model_type
    expected: int | None = None
    what = "the vocabulary has"
    if kind == "diffusion":
        expected, what = model.width, "the process, with the tokens and its mask if it has one, has"
    elif kind == "decoder":
        expected = getattr(getattr(section, "params", None), "vocab_size", None)
    elif kind == "encoder_decoder":
        expected = getattr(getattr(section, "decoder_params", None), "vocab_size", None)
    shape = getattr(output, "shape", None)
    if expected is not None and (shape is None or not len(shape) or shape[-1] != expected):
        given = type(output).__name__ if shape is None else f"an output of shape {list(shape)}"
        raise ValueError(f"the network gives {given}, and {what} {expected} states: the last axis must have {expected}")


def _check_memory(weights: int, device: str | None) -> None:
    """Raise ValueError if `weights` bytes exceed the memory of a machine whose CPU holds them."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):  # not on this system
        return
    if weights > memory and device in (None, "cpu"):
        sizes = f"{weights / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f} GiB of memory"
        raise ValueError(f"the weights take {sizes}; make the model smaller, or see --summary for its parts")
