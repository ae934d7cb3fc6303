"""Embeddings of a denoiser's conditioning: the noise level, and a condition."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Embedding of the noise level: sigma [B] or [B, L] to [B, 1, width] or [B, L, width].

    Sinusoids (Vaswani et al. 2017) of a number, through a two-layer perceptron. The number is, with `argument` "lost",
    1000 (1 - exp(-sigma)), the expected share of corrupted tokens in thousandths; with "sigma" or "time" it is the
    given value itself, of which the caller passes sigma or the time t.
    """

    def __init__(self, width: int, frequencies: int = 128, argument: str = "lost") -> None:
        super().__init__()
        self.frequencies, self.argument = frequencies, argument
        self.net = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed sigma [B] or [B, L]; float64 up to the sinusoids, as small levels differ in their last digits."""
        level = sigma.double()
        if self.argument == "lost":
            level = -1000.0 * torch.expm1(-level)
        steps = torch.arange(self.frequencies, device=sigma.device, dtype=torch.float64)
        angles = level[..., None] * torch.exp(-math.log(10_000.0) * steps / self.frequencies)
        features = torch.cat([angles.cos(), angles.sin()], -1).to(self.net[0].weight.dtype)  # type: ignore[arg-type]
        out: Tensor = self.net(features)
        return out[:, None] if sigma.dim() == 1 else out


class ConditionEmbedding(nn.Module):
    """Embedding of a condition, [B, 1, width]: of a class int64 [B], or of a vector of properties [B, size].

    A missing condition is the class `num_classes`, or a vector with a NaN; both have a learned embedding. Properties
    are in their original units, and are scaled by the section's `mean` and `std`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, condition: Any, width: int) -> None:
        super().__init__()
        self.num_classes: int | None = condition.get("num_classes")
        if self.num_classes is not None:
            self.table = nn.Embedding(self.num_classes + 1, width)
        else:
            size = condition.size
            mean, std = condition.get("mean") or [0.0] * size, condition.get("std") or [1.0] * size
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
            self.net = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
            self.absent = nn.Parameter(torch.zeros(width))

    def forward(self, cond: Tensor) -> Tensor:
        """Embed the condition of each row, int64 [B] or float [B, size], to [B, 1, width]."""
        if self.num_classes is not None:
            out: Tensor = self.table(cond)[:, None]
            return out
        absent = cond.isnan().any(-1, keepdim=True)
        scaled = (cond.float() - self.mean) / self.std
        known = self.net(scaled.masked_fill(absent, 0.0).to(self.absent.dtype))
        return torch.where(absent, self.absent, known)[:, None]


class ConditioningEmbedding(nn.Module):
    """Sum of the embeddings of noise level and condition, [B, 1 or L, width]; zeros if a network takes neither.

    With `constant`, a network without time conditioning embeds sigma = 0 throughout, as MDLM's does: adaLN multiplies
    the conditioning, and learns tens of times slower from zeros. Networks keep it as `told`, its name in checkpoints.
    Where the section has `condition_silu: each`, SiLU is applied to each of the two before they are added.
    """

    def __init__(self, config: Any, width: int, *, constant: bool = False) -> None:
        super().__init__()
        self.width, self.tells_time = width, bool(config.time_conditioning)
        argument = config.get("time_embedding") or "lost"
        self.noise = NoiseEmbedding(width, argument=argument) if self.tells_time or constant else None
        self.is_activated = config.get("condition_silu") == "each"
        condition = config.get("condition")
        self.condition = ConditionEmbedding(condition, width) if condition is not None else None

    def forward(self, x_t: Tensor, sigma: Tensor | None, cond: Tensor | None) -> Tensor:
        """Embed the noise level and condition of x_t [B, L]; without `cond` the condition is missing in every row."""
        like = next(self.parameters(), None)
        cond_emb = torch.zeros(
            x_t.shape[0], 1, self.width, device=x_t.device, dtype=like.dtype if like is not None else None
        )
        if self.noise is not None:
            assert sigma is not None or not self.tells_time
            noise = self.noise(sigma if self.tells_time else cond_emb.new_zeros(x_t.shape[0]))
            cond_emb = cond_emb + (F.silu(noise) if self.is_activated else noise)
        if self.condition is not None:
            cond = self._missing_condition(x_t.shape[0], x_t.device) if cond is None else cond
            condition = self.condition(cond)
            cond_emb = cond_emb + (F.silu(condition) if self.is_activated else condition)
        return cond_emb

    def _missing_condition(self, rows: int, device: torch.device) -> Tensor:
        assert self.condition is not None
        if self.condition.num_classes is not None:
            return torch.full((rows,), self.condition.num_classes, device=device)
        return torch.full((rows, self.condition.net[0].in_features), torch.nan, device=device)  # type: ignore[arg-type]
