"""Output of a discrete diffusion model: means over the tokens of a batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from model_factory.diffusion.objectives.losses import LossParts, Objective
from model_factory.diffusion.processes.forward_process import per_token


class DiffusionOutput(NamedTuple):
    """Nats per real token: `loss`, and the parts of the bound."""

    loss: Tensor
    diffusion: Tensor
    prior: Tensor
    reconstruction: Tensor


def reduce_parts(
    parts: LossParts, counted: Tensor, objective: Objective, t: Tensor | None, *, is_training: bool
) -> DiffusionOutput:
    """Return means over the tokens where bool `counted` [B, L] is True; the times t weight the loss uniformly."""
    means = [_mean(part, counted) for part in (parts.diffusion, parts.prior, parts.reconstruction)]
    output = DiffusionOutput(torch.stack(means).sum(), *means)
    trained = parts.diffusion if parts.loss is None else parts.loss
    if t is not None:
        weight = objective.weight(t) if parts.weight is None else parts.weight
        return output._replace(loss=_mean(trained / per_token(weight, counted), counted))
    if is_training and parts.loss is not None:
        return output._replace(loss=_mean(trained, counted))
    return output


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [], float32, of per-token values [B, L] over the real tokens."""
    return (values.sum() / mask.sum().clamp_min(1)).to(torch.float32)
