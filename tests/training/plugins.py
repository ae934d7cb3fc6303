"""Custom types of a plugin: a model with a loss, labelled rows, tasks with NaN losses or gradients."""

import os
from typing import Literal, NamedTuple

import torch
from torch import nn

from data_manager.dataset_types import DatasetConfig
from data_manager.registry import register_source
from model.registry import register_model
from model_factory.experiment.task_registry import register_task
from model_factory.training.tasks.language_modelling import LanguageModelling
from model_factory.yaml_config.strict_model import StrictModel


class BigramConfig(StrictModel):
    size: int = 200


class Output(NamedTuple):
    loss: torch.Tensor


class Bigram(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size, size)

    def forward(self, input_ids, attention_mask=None):
        logits = self.table(input_ids[:, :-1])
        return Output(nn.functional.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten()))


@register_model("bigram", config=BigramConfig)
def build(config):
    return Bigram(config.size)


class LabelledConfig(DatasetConfig):
    source: Literal["labelled"] = "labelled"


@register_source("labelled", config=LabelledConfig)
def load(config):
    """Make rows of class 1 if their tokens are large, 0 otherwise."""
    import datasets

    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(8, (3 + number % 5,), generator=generator).tolist() for number in range(64)]
    labels = [int(sum(row) > 3.5 * len(row)) for row in rows]
    split = datasets.Dataset.from_dict({"input_ids": rows, "labels": labels})
    return {"train": split, "validation": split}


@register_task("broken", columns=("input_ids",), model_types=("decoder",))
class Broken(LanguageModelling):
    def __call__(self, network, batch):
        return {"loss": super().__call__(network, batch)["loss"] * torch.nan}


@register_task("nan_at_4", columns=("input_ids",), model_types=("decoder",))
class NanAtFour(LanguageModelling):
    """Task with a NaN loss at the fourth step."""

    steps = 0

    def __call__(self, network, batch):
        measured = super().__call__(network, batch)
        self.steps += network.training
        return {name: value * torch.nan if self.steps == 4 else value for name, value in measured.items()}


@register_task("mute", columns=("input_ids",), model_types=("decoder",))
class Mute(LanguageModelling):
    """Task whose samples fail."""

    def samples(self, network, batch, generator):
        raise RuntimeError("no samples today")


FAILING_STEP = "TESTS_FAILING_STEP"
"""Environment variable: step, counted from 1, at which the task `failing` raises an error."""


@register_task("failing", columns=("input_ids",), model_types=("decoder",))
class Failing(LanguageModelling):
    """Task that raises a ValueError in the last part of one step, after the forward pass has drawn from the RNG."""

    def __call__(self, network, batch):
        measured, noise = super().__call__(network, batch), batch["noise"]
        is_last = int(noise.place[-1]) + 1 == noise.batch_size
        if network.training and is_last and str(noise.step + 1) == os.environ.get(FAILING_STEP):
            raise ValueError("this row is too long")
        return measured


@register_task("bursting", columns=("input_ids",), model_types=("decoder",))
class Bursting(LanguageModelling):
    """Task with a finite loss but an infinite gradient at the fourth step: a square root at 0."""

    def __call__(self, network, batch):
        measured = super().__call__(network, batch)
        if batch["noise"].step == 3:
            weight = next(network.parameters())
            measured["loss"] = measured["loss"] + (weight - weight.detach()).pow(2).sum().sqrt()
        return measured
