"""Drawing of the noise of a batch: by time, or by the number of masks.

Under absorbing noise from alpha = 1 to alpha = 0, all numbers of masks k = 1..n of n tokens have the same rate along t, so
the integral over t is a mean over k (the count form):

    bound = E_k E_S [ (n / k) * sum over l in S of -log p(x_0[l] | x_t) ],  k uniform on 1..n, S a uniform k-subset

No term is divided by t, and there is no prior part. A sum of equal terms has no variance at all, whatever k is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_time
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess, check_clean
from model_factory.diffusion.processes.forward_process import per_token
from model_factory.diffusion.randomness import Randomness, uniform

_EARLIEST = 1e-300


@dataclass(frozen=True)
class Noised:
    """Noise of a batch, drawn without the network.

    Fields:
        x_t: [B, L] noisy tokens; t: [B] or [B, L] times in (0, 1] on which network and parameterisation are conditioned.
        weight: [B] or [B, L] weights of the terms of the bound; None: the objective's weight at t.
        even_weight: the weights under `loss_weighting: uniform`, where `weight` is given.
    """

    x_t: Tensor
    t: Tensor
    weight: Tensor | None = None
    even_weight: Tensor | float = 1.0


class NoiseDraw(ABC):
    """Way to draw the noise of a batch.

    Attributes:
        is_bound: False if the mean of the loss is no bound, so that the draw is for training alone.
        has_ends: True if the bound has a prior and a reconstruction part, at the two ends of the schedule.
        is_counted: True if the times of the rows choose numbers of masks.
    """

    is_bound: ClassVar[bool] = True
    has_ends: ClassVar[bool] = True
    is_counted: ClassVar[bool] = False

    @abstractmethod
    def draw(self, process: DiffusionProcess, x_0: Tensor, t: Tensor, generator: Randomness, frozen: Tensor) -> Noised:
        """Draw the noise of tokens x_0 [B, L] from the times t of the rows, [B] or [B, L] in (0, 1].

        `frozen` bool [B, L] is True at prompts and padding, which are kept. Raises TokenError, TimeError and ShapeError.
        """


class TimeDraw(NoiseDraw):
    """Noise at the given times, at which tokens are noised independently."""

    def draw(self, process: DiffusionProcess, x_0: Tensor, t: Tensor, generator: Randomness, frozen: Tensor) -> Noised:
        """Draw noisy tokens at t; raise TokenError, TimeError and ShapeError."""
        return Noised(process.corrupt(x_0, t, generator, frozen), t)


@dataclass(frozen=True)
class MaskCounts:
    """Numbers of tokens that may be noised, `n`, and of masks, `k`, int64 [B] or [B, L]; 0 where all tokens are frozen.

    `level` float64 of that shape is the share of masks at which a row noised along t has exactly these masks: the k-th
    smallest of n uniforms, so its distribution given k is Beta(k, n - k + 1), whatever the subset.
    """

    n: Tensor
    k: Tensor
    level: Tensor


class CountDraw(NoiseDraw):
    """The count form: k = ceil(n t) masks among the n tokens of a row that are not frozen.

    Where t [B, L] differs within a row, each run of equal times has its own n and k: the blocks of a block objective.
    Runs may be joined or split without a bias, as the bound of a row is the sum of theirs.
    """

    has_ends: ClassVar[bool] = False
    is_counted: ClassVar[bool] = True

    def draw(self, process: DiffusionProcess, x_0: Tensor, t: Tensor, generator: Randomness, frozen: Tensor) -> Noised:
        """Draw subsets of k tokens; raise TokenError, TimeError and ShapeError."""
        free = check_clean(x_0, frozen, process.graph.num_tokens)
        masked, counts = _draw_subsets(check_time("t", t), frozen, generator)
        x_t = torch.where(masked, process.graph.sample_limit(free.shape, None, x_0.device), x_0)
        even = counts.n / (counts.n + 1.0)  # k = 0, whose loss is 0, has a share of 1 / (n + 1) under uniform times
        return Noised(x_t, self.times(process, counts, generator), self.weight(process, counts), even)

    def weight(self, process: DiffusionProcess, counts: MaskCounts) -> Tensor:
        """Return the weights of the terms, n / k, of the shape of `counts`."""
        return counts.n / counts.k.clamp_min(1)

    def times(self, process: DiffusionProcess, counts: MaskCounts, generator: Randomness) -> Tensor:
        """Return times of the schedule at which a share `counts.level` is masked, [B] or [B, L], drawn given k.

        Levels that the schedule does not reach get its nearest time, at which the network was trained.
        """
        low, high = (float(process.schedule.sigma(end)) for end in (0.0, 1.0))
        sigma = -torch.log1p(-counts.level)
        return process.schedule.inverse(sigma.clamp(low, high)).clamp_min(_EARLIEST)


def find_runs(times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the run of equal times that each position of times [B, L] is in, and its start, int64 [B, L]."""
    place = torch.arange(times.shape[1], device=times.device).expand(times.shape)
    is_first = torch.ones_like(times, dtype=torch.bool)
    is_first[:, 1:] = times[:, 1:] != times[:, :-1]
    return is_first.cumsum(1) - 1, place.where(is_first, 0).cummax(1).values


def _draw_subsets(t: Tensor, frozen: Tensor, generator: Randomness) -> tuple[Tensor, MaskCounts]:
    """Draw a subset of ceil(n t) free tokens in each run of equal times; return bool [B, L] and the counts.

    The masks are the k tokens with the smallest of independent uniforms, so that the same numbers noise a row by time and
    by count.
    """
    times = per_token(t, frozen).expand(frozen.shape)
    run, start = find_runs(times)
    n = torch.zeros_like(run).scatter_add(1, run, (~frozen).long()).gather(1, run)
    k = torch.minimum(torch.ceil(n * times).long().clamp_min(1), n)

    values = 1 - uniform(frozen.shape, generator, frozen.device)  # in (0, 1]
    values = values.masked_fill(frozen, torch.inf)
    by_value = values.argsort(1)
    order = by_value.gather(1, run.gather(1, by_value).argsort(dim=1, stable=True))
    place = torch.arange(frozen.shape[1], device=frozen.device).expand(frozen.shape)
    rank = torch.empty_like(order).scatter(1, order, place) - start
    kth = order.gather(1, start + (k - 1).clamp_min(0))
    level = torch.where(n > 0, values.gather(1, kth), times)
    counts = MaskCounts(n, k, level) if t.dim() > 1 else MaskCounts(n[:, 0], k[:, 0], level[:, 0])
    return rank < k, counts
