"""Checks of rows with responses, and of rows that are filled with end tokens, against the model and its task."""

import inspect
from collections.abc import Iterator
from typing import Any

from data_manager.row_types import RESPONSES, TokensConfig
from model.registry import MODELS
from model_factory.diffusion.registry import OBJECTIVES
from model_factory.experiment.check_context import DISCRETE, OWN_TASKS, Check, Context
from model_factory.experiment.task_registry import TASKS
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.strict_model import Location


def _task(context: Context) -> Iterator[Problem]:
    """Check that the task learns the responses alone, where rows name them."""
    model, training, entry = context.model, context.training, context.dataset
    if not context.trains or context.task is not None or model is None or training is None or entry is None:
        return
    columns = context.columns or frozenset()
    others = columns - {RESPONSES}
    wanted = [training.task_name] if training.task_name else list(TASKS)
    fitting = [name for name in wanted if TASKS.get(name).fits(model.model_type, others)]
    if RESPONSES in columns and fitting:
        message = f"the task {fitting[0]} learns all tokens, and the rows of data set {entry.name!r} name the responses in them"
        fix = "model_type: diffusion or decoder, or leave the responses out"
        yield context.problem(_origin(context), message, fix)


def _custom_model(context: Context) -> Iterator[Problem]:
    """Check that a custom model takes the mask of responses, where its class is known."""
    model = context.model
    if context.task != "diffusion" or model is None or model.model_type == DISCRETE:
        return
    if RESPONSES not in (context.columns or ()):
        return
    forward = getattr(MODELS.get(model.model_type).build, "forward", None)
    if forward is None:
        return  # a function builds it
    parameters = inspect.signature(forward).parameters
    if RESPONSES not in parameters:
        given = ", ".join(name for name in parameters if name != "self")
        message = f"the responses alone are learnt, and forward({given}) of the model {model.model_type} has no keyword {RESPONSES}"
        yield context.problem(_origin(context), message, f"add `{RESPONSES}=None` to it, bool [B, L]")


def _fill(context: Context) -> Iterator[Problem]:
    """Check that rows are filled only for a model that predicts the fill, and hidden only where that tells it no more."""
    entry, model, task = context.dataset, context.model, context.task
    if not isinstance(entry, TokensConfig) or model is None or task not in OWN_TASKS or entry.layout != "whole":
        return
    path = (*context.dataset_path, "fill")
    if entry.fill == "end" and task == "language_modelling":
        message = "a decoder learns where a text ends from one end token, and more of them are waste"
        yield context.problem(path, message, "fill: hidden")
    elif entry.fill == "end" and task != "diffusion":
        yield context.problem(path, f"the fill is for diffusion, and the task is {task}", "remove it")
    section: Any = model.config if model.model_type == DISCRETE else None
    if section is not None and not entry.is_filled and OBJECTIVES.get(section.objective.type).blockwise:
        message = (
            f"{section.objective.type} writes blocks, and a last block whose fill is hidden is given the number of its tokens, "
            "so that its loss bounds nothing"
        )
        yield context.problem(_first_of(context, "fill", "rows"), message, "fill: end")


def _origin(context: Context) -> Location:
    """Return the path of the key that names the responses."""
    return _first_of(context, "messages", "template", "column")


def _first_of(context: Context, *keys: str) -> Location:
    """Return the path of the first of the data set's keys that the file has, else that of the data set."""
    paths = [(*context.dataset_path, key) for key in keys]
    return next((path for path in paths if context.has(path)), context.dataset_path)


RESPONSE_CHECKS: tuple[Check, ...] = (_task, _custom_model, _fill)
