"""Diffusion in T steps (Austin et al. 2021, D3PM): schedules given by a table of alpha, and the discrete-time bound.

The bound is the sum over T steps of KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s = t - 1/T, estimated by T times one drawn
term. Its gap to the continuous-time bound falls as 1 / T.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from model_factory.diffusion.errors import (
    SettingError,
    ShapeError,
    check_count,
    check_number,
    check_time,
    check_tokens,
)
from model_factory.diffusion.objectives.losses import Objective, SubsLoss
from model_factory.diffusion.objectives.noise_draws import CountDraw, MaskCounts
from model_factory.diffusion.objectives.parameterisation import Parameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.noise_schedule import AlphaSchedule
from model_factory.diffusion.randomness import Randomness, uniform

Curve = Literal["even", "cosine", "linear", "quadratic"]
_OFFSET, _MOST_BETA = 0.008, 0.999  # of the cosine schedule, Nichol and Dhariwal 2021
_MOST_TERMS = 1 << 22  # terms of sums over steps that are kept at once, 32 MiB


def alpha_table(curve: Curve, num_steps: int, beta_start: float | None = None, beta_end: float | None = None) -> Tensor:
    """Return alpha after 0, 1, ... T steps, [T + 1] float64.

    even: 1 - i / T, D3PM's schedule for masks (beta = 1 / (T - i + 1)); cosine: Nichol and Dhariwal's of 2021; linear
    and quadratic: products of 1 - beta, where beta or its root grows linearly from beta_start to beta_end. Their
    defaults are 0.1 / T and 20 / T, as in Ho et al. 2020 at T = 1000.
    """
    steps = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    if curve == "even":
        return 1 - steps
    if curve == "cosine":
        whole = torch.cos((steps + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2
        beta = (1 - whole[1:] / whole[:-1]).clamp_max(_MOST_BETA)
    else:
        root = 2 if curve == "quadratic" else 1
        low = 0.1 / num_steps if beta_start is None else beta_start
        high = min(20 / num_steps, _MOST_BETA) if beta_end is None else beta_end
        beta = torch.linspace(low ** (1 / root), high ** (1 / root), num_steps, dtype=torch.float64) ** root
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


class DiscreteNoise(AlphaSchedule):
    """alpha from a table of T + 1 entries, linearly interpolated, so that it also fits continuous-time objectives.

    Raises SettingError for fewer than one step, and for betas outside (0, 1).
    """

    def __init__(
        self,
        num_steps: int = 1000,
        curve: Curve = "even",
        beta_start: float | None = None,
        beta_end: float | None = None,
    ) -> None:
        self.num_steps: int = check_count("num_steps", num_steps)
        for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if beta is not None:
                check_number(name, beta, 0.0, _MOST_BETA, low_open=True)
        self.table = alpha_table(curve, num_steps, beta_start, beta_end)

    def _alpha(self, t: Tensor) -> Tensor:
        table, step, share = self._locate(t)
        return table[step] * (1 - share) + table[step + 1] * share

    def _lost(self, t: Tensor) -> Tensor:
        table, step, share = self._locate(t)
        return (1 - table[step]) * (1 - share) + (1 - table[step + 1]) * share

    def _slope(self, t: Tensor) -> Tensor:
        table, step, _ = self._locate(t)
        return (table[step] - table[step + 1]) * self.num_steps

    def _invert(self, sigma: Tensor) -> Tensor:
        alpha, table = torch.exp(-sigma), self.table.to(sigma.device)
        step = (torch.searchsorted(-table, -alpha) - 1).clamp(0, self.num_steps - 1)
        return (step + (table[step] - alpha) / (table[step] - table[step + 1])) / self.num_steps

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the table, the step that contains each time (a time on the grid ends its step) and the fraction of it."""
        along = t * self.num_steps
        step = (torch.ceil(along - 1e-9) - 1).clamp(0, self.num_steps - 1)
        return self.table.to(t.device), step.long(), along - step


class _DiscreteTime(Objective):
    """Objective with times on a grid of `num_steps`; a time t means the step that ends at ceil(t T) / T."""

    def __init__(
        self, process: DiffusionProcess, num_steps: int, parameterisation: Parameterisation | None = None
    ) -> None:
        super().__init__(process, parameterisation or X0Parameterisation(process.graph))
        self.num_steps = check_count("num_steps", num_steps)

    def on_grid(self, t: Tensor) -> Tensor:
        """Return the end i / T of the step that contains t in (0, 1]; raise TimeError."""
        steps = check_time("t", t) * self.num_steps - 1e-9  # a time on the grid is not moved
        return torch.ceil(steps).clamp(1, self.num_steps) / self.num_steps

    def before(self, t: Tensor) -> Tensor:
        """Return the start t - 1 / T of the step that ends at t."""
        return (t - 1 / self.num_steps).clamp_min(0)

    def weight(self, t: Tensor) -> Tensor:
        """Return T (alpha_s - alpha_t) / (1 - alpha_t) with s = t - 1/T."""
        later = self.schedule.alpha(t)
        return self.num_steps * (self.schedule.alpha(self.before(t)) - later) / (1 - later)

    def times(self, t: Tensor, x_0: Tensor) -> Tensor:
        """Return the ends of the steps that contain the times, or the times that choose numbers of masks; raise TimeError."""
        return check_time("t", t) if self.noise_draw.is_counted else self.on_grid(t)

    def count_draw(self) -> "StepCountDraw":
        """Return the way to draw numbers of masks with the weights of the steps."""
        return StepCountDraw(self.num_steps)


class StepCountDraw(CountDraw):
    """The count form of the bound in T steps: k uniform on 1..n, and the weight that the steps give to k masks.

    A step that ends at t noises a token with probability 1 - alpha_t, so that k of n tokens are masked in it with

        p(k | t) = n! / (k! (n - k)!) (1 - alpha_t)^k alpha_t^(n - k)

    and the weight of k is n times the sum over the steps of p(k | t) (alpha_s - alpha_t) / (1 - alpha_t). The table of alpha
    is used as it is, so that the value is that of the objective and the prior part remains. There is one k for each row.
    """

    has_ends = True

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def weight(self, process: DiffusionProcess, counts: MaskCounts) -> Tensor:
        """Return the weights of the terms, [B]; they approach n / k for many steps."""
        n, k = counts.n.to(torch.float64), counts.k.to(torch.float64)
        log_sum = torch.cat([joint.logsumexp(-1) for joint in self._log_joint(process, counts)])
        return n * torch.exp(torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1) + log_sum)

    def times(self, process: DiffusionProcess, counts: MaskCounts, generator: Randomness) -> Tensor:
        """Draw the ends of steps given the numbers of masks, [B]."""
        draws = torch.split(uniform(counts.k.shape, generator, counts.k.device), self._rows_at_once)
        steps = []
        for joint, draw in zip(self._log_joint(process, counts), draws, strict=True):
            cumulative = torch.exp(joint - joint.amax(-1, keepdim=True)).cumsum(-1)
            found = torch.searchsorted(cumulative, draw[:, None] * cumulative[:, -1:], right=True)[:, 0]
            steps.append(found.clamp_max(self.num_steps - 1) + 1)
        return torch.cat(steps).to(torch.float64) / self.num_steps

    @property
    def _rows_at_once(self) -> int:
        return max(1, _MOST_TERMS // self.num_steps)

    def _log_joint(self, process: DiffusionProcess, counts: MaskCounts) -> Iterator[Tensor]:
        """Yield log of (1 - alpha_t)^k alpha_t^(n - k) (alpha_s - alpha_t) / (1 - alpha_t), [rows, T], for groups of rows."""
        if counts.k.dim() > 1:
            raise ShapeError("t", f"shape {list(counts.k.shape)}", "[B], one time for each row")
        ends = torch.arange(1, self.num_steps + 1, dtype=torch.float64, device=counts.k.device) / self.num_steps
        alpha, lost = process.schedule.alpha(ends), -torch.expm1(-process.schedule.sigma(ends))
        earlier = process.schedule.alpha((ends - 1 / self.num_steps).clamp_min(0))
        # A first step that noises no token in floating point has no rate, so that it is never drawn.
        log_rate = torch.where(lost > 0, torch.log((earlier - alpha) / lost), -torch.inf)
        for n, k in zip(*(torch.split(count, self._rows_at_once) for count in (counts.n, counts.k)), strict=True):
            masked = torch.special.xlogy(k[:, None].to(torch.float64), lost)
            yield log_rate + masked + torch.special.xlogy((n - k)[:, None].to(torch.float64), alpha)


class DiscreteSubsLoss(_DiscreteTime, SubsLoss):
    """D3PM with a mask: cross-entropy at masks, weighted by T (alpha_s - alpha_t) / (1 - alpha_t)."""

    has_count_form = has_row_terms = True


class D3pmLoss(_DiscreteTime):
    """D3PM under any noise: T KL(q(x_s | x_t, x_0) || q(x_s | x_t, p(x_0))), from `Graph.reverse_posterior`.

    Both posteriors are split into the probability of a change and its target, so that small probabilities of a step
    keep their precision. Under masks it equals DiscreteSubsLoss, which evaluates masked tokens only. p(x_0) is the
    distribution of the clean token given the other tokens; Bayes' rule turns it into the paper's x_0-parameterisation.
    """

    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return T times the divergence of one step, [B, L]; raise TokenError, TimeError and ShapeError."""
        check_tokens("x_t", x_t, self.graph.dim)
        check_tokens("x_0", x_0, self.graph.num_tokens)
        t = check_time("t", t)
        sigma, earlier = self.schedule.sigma(t), self.schedule.sigma(self.before(t))
        predicted = self.parameterisation.log_x0(output, x_t, sigma).exp()
        truth = torch.nn.functional.one_hot(x_0, self.graph.dim).to(torch.float64)
        move, to = self.graph.reverse_posterior(truth, x_t, sigma, earlier)
        moved, model = self.graph.reverse_posterior(predicted, x_t, sigma, earlier)
        target_kl = _divergence(_normalise(to), _normalise(model)).sum(-1)
        move_kl = _divergence(move, moved) + _divergence(1 - move, 1 - moved)
        return self.num_steps * (move_kl + torch.where(move > 0, move * target_kl, 0.0))


def _normalise(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return p log(p / q) - p + q >= 0, which sums to the KL divergence of two distributions; infinite where only q is 0."""
    ratio = torch.where(p > 0, p, 1.0) / torch.where(p > 0, q, 1.0)
    return torch.where(p > 0, p * torch.log(ratio) - p + q, q)


def discrete_loss(process: DiffusionProcess, num_steps: int | None) -> Objective:
    """Return the D3PM objective of a process, in its schedule's number of steps or, without one, in `num_steps`.

    Raises SettingError if neither gives a number of steps, or both give different ones.
    """
    own = process.schedule.num_steps
    if own is not None and num_steps is not None and own != num_steps:
        raise SettingError("num_steps", num_steps, f"{own}, the number of the schedule's steps")
    count = own or num_steps
    if count is None:
        raise SettingError("num_steps", "None", "a number of steps, because the schedule has no num_steps")
    return (DiscreteSubsLoss if process.graph.absorbing else D3pmLoss)(process, count)
