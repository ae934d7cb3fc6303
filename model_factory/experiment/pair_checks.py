"""Checks of diffusion models that are trained on pairs: their canvas, their positions and what their `forward` takes."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from model.registry import MODELS
from model_factory.experiment.check_context import DISCRETE, Check, Context
from model_factory.yaml_config.errors import Problem

TASK = "conditional_diffusion"
_READS = ("response_mask", "context_ids")
"""Keywords of `forward`, one of which a model of pairs has."""


def has_encoder(model: ModelConfig) -> bool:
    """Return True for a discrete diffusion model whose network reads sources by an encoder."""
    return (
        model.model_type == DISCRETE and getattr(getattr(model.config, "backbone", None), "encoder", None) is not None
    )


def row_length(model: ModelConfig, entry: DatasetConfig) -> int | None:
    """Return the largest number of tokens in a row that the model reads; None if the data set does not limit it.

    Where a diffusion model reads pairs without an encoder, a row has a source in front of the target's canvas.
    """
    length: int | None = getattr(entry, "sequence_length", None)
    is_joined = model.model_type == DISCRETE and getattr(entry, "is_paired", False) and not has_encoder(model)
    return 2 * length if length is not None and is_joined else length


def _canvas(context: Context) -> Iterator[Problem]:
    """Check that the number of tokens on which a target is written is known."""
    entry: Any = context.dataset
    if context.task == TASK and entry is not None and getattr(entry, "sequence_length", None) is None:
        message = (
            "a diffusion model writes a target on a canvas of fixed length, filled with end tokens, and data set "
            f"{entry.name!r} sets no sequence_length"
        )
        yield context.problem(context.dataset_path, message, "add sequence_length: 64")


def _positions(context: Context) -> Iterator[Problem]:
    """Check that the network has positions for a source and the canvas behind it."""
    model, entry = context.model, context.dataset
    if context.task != TASK or model is None or entry is None or model.model_type != DISCRETE or has_encoder(model):
        return
    longest, section = row_length(model, entry), model.config
    for path, owner in ((("model", "backbone", "max_length"), section.backbone), (("model", "length"), section)):  # type: ignore[attr-defined]
        limit: int | None = getattr(owner, path[-1], None)
        if longest is not None and limit is not None and limit < longest:
            message = (
                f"a row has a source of up to {longest // 2} tokens and a canvas of {longest // 2} (sequence_length), and "
                f"{path[-1]} is {limit}"
            )
            yield context.problem(path, message, f"{path[-1]}: {longest}, or sequence_length: {limit // 2}")


def _takes_responses(context: Context) -> Iterator[Problem]:
    """Check that a custom model can keep its loss to responses, where its builder tells its class."""
    model = context.model
    if context.task != TASK or model is None or model.model_type == DISCRETE:
        return
    found = _model_class(MODELS.get(model.model_type).build)
    if found is None:
        return
    signature = inspect.signature(found.forward)
    takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    if not takes_all and not set(_READS) & set(signature.parameters):
        message = (
            "pairs need a model that noises and counts targets alone, and "
            f"{found.__name__}.forward{signature} has no keyword response_mask"
        )
        yield context.problem(("model", "model_type"), message, "add `response_mask=None`, bool [B, L], to it")


def _model_class(build: Callable[..., Any]) -> Any:
    """Return the class of the models that a builder makes; None if that is known only when it is called."""
    if inspect.isclass(build):
        return build if hasattr(build, "forward") else None
    code, values = getattr(build, "__code__", None), getattr(build, "__globals__", {})
    named = {id(value): value for name in getattr(code, "co_names", ()) if inspect.isclass(value := values.get(name))}
    found = [value for value in named.values() if hasattr(value, "forward")]
    return found[0] if len(found) == 1 else None


PAIR_CHECKS: tuple[Check, ...] = (_canvas, _positions, _takes_responses)
