"""Checks of diffusion models that are trained on pairs: their canvas, their positions and what their `forward` takes."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from data_manager.dataset_types import DatasetConfig
from model.denoisers.encoder_types import reads_source
from model.model_types import ModelConfig
from model.registry import MODELS
from model_factory.experiment.check_context import DISCRETE, Check, Context
from model_factory.yaml_config.errors import Problem

TASK = "conditional_diffusion"
_READS = ("response_mask", "context_ids")
"""Keywords of `forward`, one of which a model of pairs has."""


def has_encoder(model: ModelConfig) -> bool:
    """Return True for a discrete diffusion model whose network reads sources by an encoder."""
    section: Any = model.config
    return model.model_type == DISCRETE and reads_source(section.backbone)


def is_joined(model: ModelConfig, entry: DatasetConfig) -> bool:
    """Return True if a row of a discrete diffusion model is a source with the target's canvas after it."""
    return model.model_type == DISCRETE and bool(getattr(entry, "is_paired", False)) and not has_encoder(model)


def row_length(model: ModelConfig, entry: DatasetConfig) -> int | None:
    """Return the largest number of tokens in a row that the model reads; None if the data set does not limit it."""
    length: int | None = getattr(entry, "sequence_length", None)
    return 2 * length if length is not None and is_joined(model, entry) else length


def reads_sources(context: Context) -> bool:
    """Return True for a discrete diffusion model whose data have a source, or a prompt, for each target."""
    is_discrete = context.model is not None and context.model.model_type == DISCRETE
    return is_discrete and bool({"source_ids", "response_mask"} & (context.columns or frozenset()))


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
    """Check that the network has positions for a source and the canvas after it."""
    model, entry = context.model, context.dataset
    if model is None or entry is None or not is_joined(model, entry):
        return
    section: Any = model.config
    longest = row_length(model, entry)
    for path, owner in ((("model", "backbone", "max_length"), section.backbone), (("model", "length"), section)):
        limit: int | None = getattr(owner, path[-1], None)
        if longest is not None and limit is not None and limit < longest:
            message = (
                f"a row has a source of up to {longest // 2} tokens and a canvas of {longest // 2} (sequence_length), and "
                f"{path[-1]} is {limit}"
            )
            yield context.problem(path, message, f"{path[-1]}: {longest}, or sequence_length: {limit // 2}")


def _source(context: Context) -> Iterator[Problem]:
    """Check that the data have the sources that an encoder reads, or that `source_dropout` leaves out."""
    model, entry = context.model, context.dataset
    if model is None or entry is None or model.model_type != DISCRETE or context.columns is None or not context.trains:
        return
    section: Any = model.config
    encoder = section.backbone.encoder if has_encoder(model) else None
    if encoder is not None and context.task != TASK:
        message = f"an encoder reads the sources of pairs, and data set {entry.name!r} has none"
        yield context.problem(("model", "backbone", "encoder"), message, "leave it out")
    elif section.source_dropout and not reads_sources(context):
        message = f"source_dropout leaves sources out, and data set {entry.name!r} has none"
        yield context.problem(("model", "source_dropout"), message, "leave it out")
    longest, limit = getattr(entry, "sequence_length", None), getattr(encoder, "max_length", None)
    if longest is not None and limit is not None and limit < longest:
        message = f"a source has up to {longest} tokens (sequence_length), and the encoder reads at most {limit}"
        yield context.problem(("model", "backbone", "encoder", "max_length"), message, f"max_length: {longest}")


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


PAIR_CHECKS: tuple[Check, ...] = (_canvas, _positions, _source, _takes_responses)
