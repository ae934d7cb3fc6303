"""What a denoiser is told besides the tokens: the noise level, and a condition."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Noise level sigma [B] or [B, L] to [B, 1, width] or [B, L, width].

    Sinusoids (Vaswani et al. 2017) of 1000 (1 - exp(-sigma)), the share of lost tokens in thousandths, through a
    two-layer perceptron.
    """

    def __init__(self, width: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.net = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed sigma [B] or [B, L]; in float64 up to the sinusoids, as small levels differ in their last digits."""
        lost = -1000.0 * torch.expm1(-sigma.double())
        steps = torch.arange(self.frequencies, device=sigma.device, dtype=torch.float64)
        angles = lost[..., None] * torch.exp(-math.log(10_000.0) * steps / self.frequencies)
        features = torch.cat([angles.cos(), angles.sin()], -1).to(self.net[0].weight.dtype)  # type: ignore[arg-type]
        out: Tensor = self.net(features)
        return out[:, None] if sigma.dim() == 1 else out


class ConditionEmbedding(nn.Module):
    """A condition to [B, 1, width]: a class [B] int64, or a vector of properties [B, size].

    No condition is the class `num_classes`, or a vector with a NaN in it; both have a learned embedding. Properties
    come in their own units and are scaled by the section's `mean` and `std`.
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
        """Embed a condition for each row, [B, 1, width], from int64 [B] or float [B, size]."""
        if self.num_classes is not None:
            out: Tensor = self.table(cond)[:, None]
            return out
        absent = cond.isnan().any(-1, keepdim=True)
        scaled = (cond.float() - self.mean) / self.std
        known = self.net(scaled.masked_fill(absent, 0.0).to(self.absent.dtype))
        return torch.where(absent, self.absent, known)[:, None]


class Told(nn.Module):
    """Sum of the embeddings of noise level and condition, [B, 1 or L, width]; zeros where a network is told neither.

    With `constant`, a network that is not told the noise level always hears of none (sigma = 0), as MDLM's does: adaLN
    multiplies what is told, and learns tens of times slower from zeros.
    """

    def __init__(self, config: Any, width: int, *, constant: bool = False) -> None:
        super().__init__()
        self.width, self.tells_time = width, bool(config.time_conditioning)
        self.noise = NoiseEmbedding(width) if self.tells_time or constant else None
        condition = config.get("condition")
        self.condition = ConditionEmbedding(condition, width) if condition is not None else None

    def forward(self, x_t: Tensor, sigma: Tensor | None, cond: Tensor | None) -> Tensor:
        """Embed what is told of x_t [B, L]; a missing condition counts as none."""
        like = next(self.parameters(), None)
        told = torch.zeros(
            x_t.shape[0], 1, self.width, device=x_t.device, dtype=like.dtype if like is not None else None
        )
        if self.noise is not None:
            assert sigma is not None or not self.tells_time
            told = told + self.noise(sigma if self.tells_time else told.new_zeros(len(x_t)))
        if self.condition is not None:
            told = told + self.condition(cond if cond is not None else self._none(x_t.shape[0], x_t.device))
        return told

    def _none(self, rows: int, device: torch.device) -> Tensor:
        assert self.condition is not None
        if self.condition.num_classes is not None:
            return torch.full((rows,), self.condition.num_classes, device=device)
        return torch.full((rows, self.condition.net[0].in_features), torch.nan, device=device)  # type: ignore[arg-type]
