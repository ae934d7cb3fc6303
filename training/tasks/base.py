"""What a task is: the one thing between a network and the Trainer.

A task of your own overrides `weight` and `__call__`, and where it can show something, `samples`; it is registered with
`training.registry.register_task`. Batches are dictionaries as the data set's collator makes them, on the network's
device, with one more key: `noise` holds a `RowNoise`, random numbers for each row that do not depend on how the rows are
split over processes. A mask that is True everywhere is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data_manager.tokenizer_base import Tokenizer
from experiment.config import ExperimentConfig
from training.config_types import GenerationConfig, TrainingConfig

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class TaskSetting:
    """What a task is made from: the resolved experiment and the data set's tokenizer (None where it has none)."""

    config: ExperimentConfig
    tokenizer: Tokenizer | None

    @property
    def training(self) -> TrainingConfig:
        """The `training` section, or its defaults."""
        return self.config.training or TrainingConfig()

    @property
    def generation(self) -> GenerationConfig:
        """The `generation` section, or its defaults."""
        return self.config.generation or GenerationConfig()


class Task:
    """(network, batch) -> {"loss": scalar, further metrics: scalars}, each a mean over `weight(batch)` items."""

    generation: ClassVar[Mapping[str, Any]] = {}
    """What a file that leaves these keys of the section `generation` out gets, where the type's defaults do not fit."""
    rows_shown: ClassVar[int] = 1
    """So many rows at least are given to `samples`, however few `generation.num_samples` are."""

    def __init__(self, setting: TaskSetting) -> None:
        self.setting = setting

    def network(self, model: nn.Module) -> nn.Module:
        """What is trained and saved: the model itself, or a module around it with what the task adds (a head)."""
        return model

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for settings that this network cannot follow, before anything is trained."""

    def rates(self) -> Callable[[int], float] | None:
        """Share of the learning rate at each step, where it is not one course over all steps."""
        return None

    def weight(self, batch: Batch) -> Tensor:
        """How many items (tokens, rows, frames) the loss is a mean over, a float scalar.

        With it, the mean over a step is one over all its items, however they are split over processes and parts.
        """
        raise NotImplementedError

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss, to be differentiated, and metrics, all scalars."""
        raise NotImplementedError

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """What the network does now, in words, for `samples.txt`; `batch` holds rows that it is not trained on."""
        return []


def real_tokens(batch: Batch, ids: str = "input_ids", mask: str = "attention_mask") -> Tensor:
    """Bool [B, L], True at tokens that are no padding."""
    found = batch.get(mask)
    return torch.ones_like(batch[ids], dtype=torch.bool) if found is None else found


def next_token_loss(logits: Tensor, ids: Tensor, real: Tensor) -> Tensor:
    """Mean cross-entropy in nats of tokens ids [B, N], after the first one, under logits [B, N - 1, V]."""
    targets = ids[:, 1:].masked_fill(~real[:, 1:], -100)
    total = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return total / real[:, 1:].sum().clamp(min=1)
