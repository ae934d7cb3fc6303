"""Task for any model whose output has a loss: discrete diffusion models and custom ones."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model.discrete.noise_drawer import DrawnNoise, LossWeighting, NoiseDrawer
from model.discrete.types import ConditionConfig
from model.transformer.inputs import checked_ids
from model_factory.diffusion.objectives.clipped_draw import SearchedClipDraw
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import Batch, Task, counted_tokens, real_tokens, take_drawn
from model_factory.training.tasks.clip_search import choose_clip, clip_variances, clipped_draw

BOUND_PARTS = ("diffusion", "prior", "reconstruction")


class Diffusion(Task):
    """Loss of the model itself on `input_ids` and `attention_mask`, and the bound if the output has all its parts.

    If the model's `forward` has these keywords, it is passed `rows` (int64 [B], positions of the rows in the step),
    `batch_size` (rows of the step over all processes) and `seed` (of the step), so that times and noise do not depend on
    the number of processes, and `loss_weighting` (`bound` or `uniform`). A conditional model is passed each row's condition,
    and with `document_ids` the model is passed `documents`.
    """

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for a `loss_weighting` that the model does not support, and for padding that is an end token.

        A model that inserts tokens learns the lengths of rows, and needs padding that is not an end token.
        """
        tokenizer = self.setting.tokenizer
        if inserts_tokens(network) and tokenizer is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise UnfitError(
                "model.objective: a model that inserts tokens learns where rows end, and the padding of this tokenizer is "
                "its end token; use a tokenizer with a pad token, such as {type: bpe} or {type: characters}"
            )
        if self.setting.training.loss_weighting != "bound" and "loss_weighting" not in _keywords(network):
            raise UnfitError(
                "training.loss_weighting: uniform is not supported by this model, whose forward has no keyword "
                "loss_weighting; leave it out"
            )

    def host_draw(self, network: nn.Module) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Return the drawing of checks, times, noise and weights, for a model whose loss needs no logits of a batch, or inserts.

        None for other models, and for clipped times that are searched, which evaluations change.
        """
        if not isinstance(network, DiffusionModel):
            return None
        if not network.inserts and (not network.has_row_form or network.call.output_head is None):
            return None
        if isinstance(network.objective.noise_draw, SearchedClipDraw):
            return None
        return StepDraw(network.drawer, self.setting.training.loss_weighting)

    def after_evaluation(self, network: nn.Module, metrics: Mapping[str, float]) -> None:
        """Choose the interval of clipped times, for `times: {clip: auto}`."""
        choose_clip(network, metrics)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of tokens of the loss."""
        return counted_tokens(batch).sum().float()

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss, and the bound with its parts, in nats per token."""
        drawn = take_drawn(batch) if network.training else None
        given = (
            self._forward_keywords(network, batch) if drawn is None else batch_masks(network, batch) | {"drawn": drawn}
        )
        with nullcontext() if drawn is None else checked_ids():
            output = network(batch["input_ids"], attention_mask=batch.get("attention_mask"), **given)
        metrics: dict[str, Tensor] = {"loss": output.loss}
        parts = {name: getattr(output, name, None) for name in BOUND_PARTS}
        found = {name: part.mean() for name, part in parts.items() if isinstance(part, Tensor)}
        if network.training:  # training skips prior and reconstruction, to save network calls
            draw = clipped_draw(network)
            if draw is not None:  # the loss is no part of a bound
                return metrics | {
                    "clip_low": output.loss.new_tensor(draw.low),
                    "clip_high": output.loss.new_tensor(draw.high),
                }
            return metrics | {"diffusion": found["diffusion"]} if "diffusion" in found else metrics
        metrics |= clip_variances(network, batch, batch_condition(network, batch))
        if len(found) == len(BOUND_PARTS):
            metrics |= {"bound": torch.stack(list(found.values())).sum(), **found}
        return metrics

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Sample texts from noise, with the lengths of the given rows, or of the first documents of isolated ones.

        Of rows with responses the last one is sampled, after `|`.
        """
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        sample: Callable[..., Tensor] | None = getattr(network, "sample", None)
        if tokenizer is None or sample is None:
            return []
        chosen: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice}
        given = {name: value for name, value in chosen.items() if value is not None}
        real = real_tokens(batch)
        if "document_ids" in batch:
            real = real & (batch["document_ids"] == batch["document_ids"][:, :1])
            real = real[:, : int(real.sum(1).max())]
        count, length = settings.num_samples, real.shape[1]
        mask = real[torch.arange(count, device=real.device) % len(real)]
        if inserts_tokens(network):
            mask = torch.ones_like(mask)  # it draws the lengths itself, up to that of the longest row
        if not bool(mask.all()) and hasattr(network, "draw"):  # a custom model may take no mask
            given["mask"] = mask
        response = batch.get("response_mask")
        if response is not None:
            if not hasattr(network, "draw"):
                return []
            rows = torch.arange(count, device=real.device) % len(real)
            frozen, starts = _prompts(response[rows])
            given |= {"prompt": batch["input_ids"][rows], "frozen": mask & frozen}
        cond = batch_condition(network, batch)
        if cond is not None:
            given["cond"] = cond[torch.arange(count, device=real.device) % len(real)]
        tokens = sample(count, length, generator=generator, **given).tolist()
        texts = [row[:size] for row, size in zip(tokens, mask.sum(1).tolist(), strict=True)]
        if response is None:
            return [tokenizer.decode([token for token in row if token >= 0]) for row in texts]
        pairs = zip(texts, starts.tolist(), strict=True)
        return [tokenizer.decode(row[:start]) + "|" + tokenizer.decode(row[start:]) for row, start in pairs]

    def _forward_keywords(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        """Return the optional keyword arguments that the model's `forward` takes."""
        noise = batch["noise"]
        available = {
            "rows": noise.place,
            "batch_size": noise.batch_size,
            "seed": noise.step_seed,
            "loss_weighting": self.setting.training.loss_weighting,
        }
        given = {name: value for name, value in available.items() if name in _keywords(network)}
        cond = batch_condition(network, batch)
        return given | batch_masks(network, batch) | ({} if cond is None else {"cond": cond})


@dataclass(frozen=True)
class StepDraw:
    """Drawing of the noise of a batch on the CPU, for `Task.host_draw`."""

    drawer: NoiseDrawer
    loss_weighting: LossWeighting

    def __call__(self, batch: dict[str, Any]) -> DrawnNoise:
        """Return the noise of a batch with `input_ids` [B, L] and `noise`; raise ValueError for rows that do not fit."""
        noise = batch["noise"]
        rows = self.drawer.check(
            batch["input_ids"],
            batch.get("attention_mask"),
            find_condition(self.drawer.config.condition, batch),
            response_mask=batch.get("response_mask"),
            documents=batch.get("document_ids"),
            rows=noise.place,
            batch_size=noise.batch_size,
            seed=noise.step_seed,
        )
        return self.drawer.draw(rows, self.loss_weighting)


def _prompts(response: Tensor) -> tuple[Tensor, Tensor]:
    """Return bool [B, L], False in the last response of each row, and where it begins [B]; `response` bool [B, L]."""
    begins = response & ~torch.nn.functional.pad(response, (1, -1))
    places = torch.arange(response.shape[1], device=response.device)
    starts = torch.where(begins, places, 0).amax(1)
    return ~response | (places < starts[:, None]), starts


def inserts_tokens(network: object) -> bool:
    """Return True for a diffusion model that inserts tokens, and so draws the lengths of its samples."""
    return bool(getattr(network, "inserts", False))


_MASKS = {
    "document_ids": (
        "documents",
        "document_ids: true isolates the documents of packed rows",
        "set document_ids: false",
    ),
    "response_mask": (
        "response_mask",
        "the rows' response_mask keeps the loss to responses",
        "add `response_mask=None`, bool [B, L], to it, or use rows without responses",
    ),
}
"""Column of a batch: the keyword of `forward`, what it is for, and the remedy for a model without it."""


def batch_masks(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the keyword arguments `documents` int64 [B, L] and `response_mask` bool [B, L] that the batch has.

    With sources for an encoder, also `context_ids` int64 [B, M] and `context_mask` bool [B, M].

    Raises UnfitError for a model whose `forward` has no such keyword.
    """
    found = {name: batch[name] for name in ("context_ids", "context_mask") if name in batch}
    for column, (keyword, purpose, remedy) in _MASKS.items():
        if column not in batch:
            continue
        if keyword not in _keywords(network):
            raise UnfitError(f"{purpose}, and {type(network).__name__}.forward has no keyword {keyword}; {remedy}")
        found[keyword] = batch[column]
    return found


def batch_condition(network: nn.Module, batch: Batch) -> Tensor | None:
    """Return the condition of each row, `labels` int64 [B] or vectors `cond` float [B, size].

    Return None for an unconditional model. Raises UnfitError if the data set does not have the condition.
    """
    return find_condition(getattr(getattr(network, "diffusion_config", None), "condition", None), batch)


def find_condition(condition: "ConditionConfig | None", batch: Batch) -> Tensor | None:
    """Return the condition of each row, [B] or [B, size], for a model's `condition`, as `batch_condition` does."""
    if condition is None:
        return None
    key = "labels" if condition.num_classes is not None else "cond"
    if key not in batch:
        remedy = (
            "add `label: COLUMN` to it" if key == "labels" else "add `properties: [logp]` (smiles) or `measured` to it"
        )
        remedy += ", or leave the condition out"
        raise UnfitError(f"model.condition needs {key} of each row, which the data set lacks; {remedy}")
    found: Tensor = batch[key]
    if key == "labels" and int(found.max()) >= (condition.num_classes or 0):
        raise UnfitError(
            f"model.condition has num_classes {condition.num_classes}, and a row has class {int(found.max())}; classes "
            "are numbered from 0"
        )
    return found


def _keywords(network: nn.Module) -> set[str]:
    """Return the parameter names of the network's `forward`."""
    return set(inspect.signature(network.forward).parameters)
