"""Run a model on tensors without storage: shapes that do not fit are found before memory is spent."""

import logging
import os
from typing import Any

from model.model_factory import create_model
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.inputs import example_inputs

_SMALL = 2**28
"""Bytes of weights below which the real model decides about an error that only tensors without storage may raise."""


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
