"""BD3LM's clipped noise (Arriola et al. 2025): times of a block from [low, high] instead of (0, 1].

It reduces the variance of the gradient, and its loss is no bound: the times outside of the interval are left out, and blocks
with a share of masks outside of it are drawn again. It reproduces the paper's training; the count form has a similar variance
and no bias. Evaluations draw from (0, 1].
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_number
from model_factory.diffusion.objectives.noise_draws import Noised, NoiseDraw, find_runs
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import per_token
from model_factory.diffusion.randomness import Randomness

SMALLEST = 1e-3
"""Smallest time of an interval that is searched, as published."""
_WIDTHS, _STEP = (0.5, 0.6, 0.7, 0.8, 0.9), 0.05
_UNIT_WEIGHT_ABOVE = 0.5
_MOST_REDRAWS = 1000
_ROUNDING = 1e-9

ClipInterval = tuple[float, float]


class ClippedDraw(NoiseDraw):
    """Noise at times low + (high - low) u for the drawn u in (0, 1], with a share of masks in [low, high] in each block.

    Terms have the weight of the bound, or weight 1 if `low` is above 1/2, as published. A lower end of at most 1e-3 and a block
    none of whose numbers of masks fits are not drawn again. Raises SettingError unless 0 <= low <= high <= 1.
    """

    is_bound = False

    def __init__(self, low: float, high: float) -> None:
        self.high = check_number("clip", high, 0.0, 1.0)
        self.low = check_number("clip", low, 0.0, self.high)

    def draw(self, process: DiffusionProcess, x_0: Tensor, t: Tensor, generator: Randomness, frozen: Tensor) -> Noised:
        """Draw noisy tokens; raise TokenError, TimeError and ShapeError."""
        run, _ = find_runs(per_token(t, x_0).expand(x_0.shape))
        size = _sum_over_runs(~frozen, run)
        least = torch.ceil(size * self.low - _ROUNDING) if self.low > SMALLEST else torch.zeros_like(size)
        most = torch.floor(size * self.high + _ROUNDING)
        t = self.low + (self.high - self.low) * t
        x_t = process.corrupt(x_0, t, generator, frozen)
        for _ in range(_MOST_REDRAWS):
            masks = _sum_over_runs(process.graph.is_masked(x_t) & ~frozen, run)
            unfit = ((masks < least) | (masks > most)) & (least <= most) & ~frozen
            if not bool(unfit.any()):
                break
            x_t = torch.where(unfit, process.corrupt(x_0, t, generator, frozen), x_t)
        rate = process.schedule.rate(t) / torch.expm1(process.schedule.sigma(t))
        return Noised(x_t, t, torch.ones_like(t) if self.low > _UNIT_WEIGHT_ABOVE else rate)


class SearchedClipDraw(ClippedDraw):
    """Clipped noise whose interval is the one with the least variance of the loss of blocks, chosen after each evaluation.

    It begins with [1e-3, 1]. `block_size` is in tokens.
    """

    def __init__(self, block_size: int) -> None:
        super().__init__(SMALLEST, 1.0)
        self.block_size = block_size

    def intervals(self) -> Iterator[ClipInterval]:
        """Yield the intervals that are searched: widths of 0.5 to 0.9 at steps of 0.05, and [1e-3, 1]."""
        yield SMALLEST, 1.0
        if self.block_size == 1:
            yield 1.0, 1.0  # all masks: the exact likelihood of a token
            return
        for width in _WIDTHS:
            for step in range(round((1 - width) / _STEP) + 1):
                yield max(SMALLEST, round(step * _STEP, 2)), round(step * _STEP + width, 2)

    def choose(self, variances: dict[ClipInterval, float]) -> None:
        """Set the interval of the least variance."""
        if variances:
            self.low, self.high = min(variances, key=lambda interval: variances[interval])


def block_means(nats: Tensor, t: Tensor, frozen: Tensor) -> Tensor:
    """Return the mean loss of each block with a token that is noised, [blocks], from the nats of tokens [B, L].

    t [B, L] are the times, equal within a block; frozen bool [B, L] is True at tokens that are not noised.
    """
    run, start = find_runs(t)
    size, total = _sum_over_runs(~frozen, run), _sum_over_runs(nats.masked_fill(frozen, 0.0), run)
    is_first = torch.arange(nats.shape[1], device=nats.device) == start
    chosen = is_first & (size > 0)
    return total[chosen] / size[chosen]


def _sum_over_runs(values: Tensor, run: Tensor) -> Tensor:
    """Return the sum of values [B, L] over each run, float64 [B, L], at all of its positions."""
    zeros = torch.zeros(run.shape, dtype=torch.float64, device=run.device)
    return zeros.scatter_add(1, run, values.to(torch.float64)).gather(1, run)
