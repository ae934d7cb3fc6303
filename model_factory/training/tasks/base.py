"""Base class of tasks: the interface between a network and the Trainer.

A custom task overrides `weight` and `__call__`, optionally `samples`, and is registered with
`model_factory.experiment.task_registry.register_task`. A batch is the dictionary from the data set's collator, on the network's device, with one
more key: `noise` holds a `RowNoise`, random numbers for each row that do not depend on how rows are split over processes.
Masks that are True everywhere are left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data_manager.tokenizers.base import Tokenizer
from model.head_loss import HeadWeights, head_loss
from model.transformer.inputs import check_ids, has_values
from model_factory.diffusion.objectives.row_losses import RowTerms
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.task_registry import TASKS
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.strict_model import StrictModel

Batch = Mapping[str, Any]
Call = Callable[[Callable[..., Tensor]], Tensor]


@dataclass(frozen=True)
class TaskSetting:
    """Arguments of a task: the resolved experiment and the data set's tokenizer (None if it has no tokenizer)."""

    config: ExperimentConfig
    tokenizer: Tokenizer | None

    @property
    def training(self) -> TrainingConfig:
        """Return the `training` section, or its defaults."""
        return self.config.training or TrainingConfig()

    @property
    def generation(self) -> GenerationConfig:
        """Return the `generation` section, or its defaults."""
        return self.config.generation or GenerationConfig()

    @property
    def task_config(self) -> StrictModel | None:
        """Return the task's own keys, or their defaults if the file gives only its name; None if it has no keys."""
        task = self.training.task
        if isinstance(task, StrictModel) or task is None:
            return task
        config_type = TASKS.get(task).config_type
        return None if config_type is None else config_type()


class Task:
    """Base class: (network, batch) -> {"loss": scalar, other metrics: scalars}, means over `weight(batch)` items."""

    generation: ClassVar[Mapping[str, Any]] = {}
    """Defaults of this task for keys of the section `generation`, instead of the type's defaults."""
    rows_shown: ClassVar[int] = 1
    """Smallest number of rows that are passed to `samples`, even if `generation.num_samples` is smaller."""
    takes_fill: ClassVar[bool] = True
    """False if the task reads whole rows as they are, also where its data set fills them with end tokens."""

    def __init__(self, setting: TaskSetting) -> None:
        self.setting = setting

    def network(self, model: nn.Module) -> nn.Module:
        """Return the module to train and save: the model, or a wrapper with parts that the task adds (a head)."""
        return model

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for settings that this network does not support; called before training."""

    def rates(self) -> Callable[[int], float] | None:
        """Return the factor on the learning rate as a function of the step; None for the configured schedule."""
        return None

    def after_evaluation(self, network: nn.Module, metrics: Mapping[str, float]) -> None:
        """Adapt the training to the metrics of an evaluation, by names such as eval_loss.

        Called after each evaluation and, when a run is resumed, with those of the last one; what it sets must depend on them
        alone.
        """

    def host_draw(self, network: nn.Module) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Return a function that draws what a training step needs beside its rows; by default None, as nothing is drawn.

        The data loader calls it with a batch on the CPU, maybe in a worker, and its result, of tensors and plain values, is
        `drawn` in the batch. It should hold no network.
        """
        return None

    def prepare(self, network: nn.Module, batch: Batch) -> Batch:
        """Return the batch as the network reads it, such as pairs joined to rows; by default unchanged."""
        return batch

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of items (tokens, rows, frames) that the loss is a mean over, a float scalar.

        It makes the loss of a step a mean over all its items, however they are split over processes and parts.
        """
        raise NotImplementedError

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss, with its gradient graph, and metrics, all scalars."""
        raise NotImplementedError

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Generate texts for `samples.txt`; `batch` holds evaluation rows, or training rows without an evaluation split."""
        return []


def real_tokens(batch: Batch, ids: str = "input_ids", mask: str = "attention_mask") -> Tensor:
    """Return a mask bool [B, L], True at tokens other than padding."""
    found = batch.get(mask)
    return torch.ones_like(batch[ids], dtype=torch.bool) if found is None else found


def counted_tokens(batch: Batch) -> Tensor:
    """Return a mask bool [B, L], True at the tokens of a loss: real ones, of responses where the rows name them."""
    real = real_tokens(batch)
    return real & batch["response_mask"] if "response_mask" in batch else real


@dataclass(frozen=True)
class IdCheck:
    """Check of the token ids of a batch, for `Task.host_draw`; `sizes` are the vocabularies of its columns."""

    sizes: Mapping[str, int]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return nothing to draw; raise InputError for a real token that is out of range."""
        for column, size in self.sizes.items():
            real = batch.get("attention_mask" if column == "input_ids" else column.replace("_ids", "_mask"))
            ids = batch.get(column)
            if ids is not None and ids.numel():
                check_ids(ids if real is None else ids.masked_fill(~real, 0), size)
        return {}


def take_drawn(batch: Batch) -> dict[str, Any] | None:
    """Return what `Task.host_draw` drew for a batch, None if it was not called; raise ValueError for the error it met."""
    drawn: dict[str, Any] | None = batch.get("drawn")
    if drawn is not None and "error" in drawn:
        raise ValueError(drawn["error"])
    return drawn


def decoder_loss(model: nn.Module, ids: Tensor, real: Tensor, call: Call) -> Tensor:
    """Compute the mean cross-entropy in nats of ids [B, N] where real bool [B, N] is True, the first token excluded.

    `call` maps the model to its logits [B, N - 1, V], or the model's `hidden` to states [B, N - 1, width]: of a model that
    gives the weights of its head as `output_head`, logits are made in chunks.
    """
    head: HeadWeights | None = getattr(model, "output_head", None)
    if head is None:
        return next_token_loss(call(model), ids, real)
    counted, targets = real[:, 1:].flatten(), ids[:, 1:].flatten()
    places = torch.arange(len(targets), device=ids.device)
    if has_values(ids) and ids.device.type == "cpu":  # a device would have to be waited for, and a graph has no numbers
        places = places[counted]
    share = counted[places] / counted.sum().clamp(min=1).double()
    terms = RowTerms("cross_entropy", [targets[places].clamp(min=0)], places, share, share)
    hidden: Callable[..., Tensor] = model.hidden  # type: ignore[assignment]
    return head_loss(call(hidden), head, terms, share)[0].float()


def next_token_loss(logits: Tensor, ids: Tensor, real: Tensor) -> Tensor:
    """Compute the mean cross-entropy in nats of ids [B, N], the first excluded, under logits [B, N - 1, V]."""
    targets = ids[:, 1:].masked_fill(~real[:, 1:], -100)
    total = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return total / real[:, 1:].sum().clamp(min=1)
