"""Diffusion in T steps (Austin et al. 2021, D3PM): schedules that are tables of alpha, and the bound of a discrete time.

At T steps the bound is the sum over steps of KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s = t - 1/T, estimated by T times one
of them. Its gap to the bound of continuous time falls as 1 / T.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from diffusion.errors import SettingError, check_count, check_number, check_time, check_tokens
from diffusion.objectives.losses import Objective, SubsLoss
from diffusion.objectives.parameterisation import Parameterisation, X0Parameterisation
from diffusion.processes.diffusion_process import DiffusionProcess
from diffusion.processes.noise_schedule import AlphaSchedule

Curve = Literal["even", "cosine", "linear", "quadratic"]
_OFFSET, _MOST_BETA = 0.008, 0.999  # of the cosine, Nichol and Dhariwal 2021


def alpha_table(curve: Curve, num_steps: int, beta_start: float | None = None, beta_end: float | None = None) -> Tensor:
    """alpha after 0, 1, ... T steps, [T + 1] float64.

    even: 1 - i / T, the schedule that D3PM has for masks (beta = 1 / (T - i + 1)); cosine: that of Nichol and Dhariwal
    2021; linear and quadratic: products of 1 - beta, where beta or its root grows evenly from beta_start to beta_end,
    which are 0.1 / T and 20 / T where they are left out, as Ho et al. 2020 have them at T = 1000.
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
    """alpha from a table of T + 1 entries, straight in between, so that it also serves objectives in continuous time.

    Raises SettingError for fewer than one step, and betas that are not in (0, 1).
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
        table, step, share = self._place(t)
        return table[step] * (1 - share) + table[step + 1] * share

    def _lost(self, t: Tensor) -> Tensor:
        table, step, share = self._place(t)
        return (1 - table[step]) * (1 - share) + (1 - table[step + 1]) * share

    def _slope(self, t: Tensor) -> Tensor:
        table, step, _ = self._place(t)
        return (table[step] - table[step + 1]) * self.num_steps

    def _invert(self, sigma: Tensor) -> Tensor:
        alpha, table = torch.exp(-sigma), self.table.to(sigma.device)
        step = (torch.searchsorted(-table, -alpha) - 1).clamp(0, self.num_steps - 1)
        return (step + (table[step] - alpha) / (table[step] - table[step + 1])) / self.num_steps

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The table, the step that each time lies in (a time on the grid ends one) and the share of it that is over."""
        along = t * self.num_steps
        step = (torch.ceil(along - 1e-9) - 1).clamp(0, self.num_steps - 1)
        return self.table.to(t.device), step.long(), along - step


class _DiscreteTime(Objective):
    """Times on the grid of `num_steps`; a time t stands for the step that ends at ceil(t T) / T."""

    def __init__(
        self, process: DiffusionProcess, num_steps: int, parameterisation: Parameterisation | None = None
    ) -> None:
        super().__init__(process, parameterisation or X0Parameterisation(process.graph))
        self.num_steps = check_count("num_steps", num_steps)

    def on_grid(self, t: Tensor) -> Tensor:
        """The end i / T of the step that t in (0, 1] lies in; raises TimeError."""
        steps = check_time("t", t) * self.num_steps - 1e-9  # a time that is on the grid stays there
        return torch.ceil(steps).clamp(1, self.num_steps) / self.num_steps

    def before(self, t: Tensor) -> Tensor:
        """The start t - 1 / T of the step that ends at t."""
        return (t - 1 / self.num_steps).clamp_min(0)

    def weight(self, t: Tensor) -> Tensor:
        """T (alpha_s - alpha_t) / (1 - alpha_t) with s = t - 1/T."""
        later = self.schedule.alpha(t)
        return self.num_steps * (self.schedule.alpha(self.before(t)) - later) / (1 - later)

    def times(self, t: Tensor, x_0: Tensor) -> Tensor:
        """The ends of the steps that the times lie in; raises TimeError."""
        return self.on_grid(t)


class DiscreteSubsLoss(_DiscreteTime, SubsLoss):
    """D3PM with a mask: cross-entropy at masks, weighed by T (alpha_s - alpha_t) / (1 - alpha_t)."""


class D3pmLoss(_DiscreteTime):
    """D3PM under any noise: T KL(q(x_s | x_t, x_0) || q(x_s | x_t, law of x_0)), from `Graph.reverse_posterior`.

    Both posteriors are split into whether the token moves and where to, so that a step's small numbers keep their
    digits. Under masks it is DiscreteSubsLoss, which looks at masked tokens only. The law is that of the clean token
    given the other tokens; Bayes' rule makes of it the x_0-parameterisation of the paper.
    """

    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """T times the divergence of one step, [B, L]; raises TokenError, TimeError and ShapeError."""
        check_tokens("x_t", x_t, self.graph.dim)
        check_tokens("x_0", x_0, self.graph.num_tokens)
        t = check_time("t", t)
        sigma, earlier = self.schedule.sigma(t), self.schedule.sigma(self.before(t))
        law = self.parameterisation.log_x0(output, x_t, sigma).exp()
        truth = torch.nn.functional.one_hot(x_0, self.graph.dim).to(torch.float64)
        move, to = self.graph.reverse_posterior(truth, x_t, sigma, earlier)
        moved, model = self.graph.reverse_posterior(law, x_t, sigma, earlier)
        where = _divergence(_normal(to), _normal(model)).sum(-1)
        whether = _divergence(move, moved) + _divergence(1 - move, 1 - moved)
        return self.num_steps * (whether + torch.where(move > 0, move * where, 0.0))


def _normal(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """p log(p / q) - p + q, not negative, whose sum over two laws is their divergence; infinite where only q is 0."""
    ratio = torch.where(p > 0, p, 1.0) / torch.where(p > 0, q, 1.0)
    return torch.where(p > 0, p * torch.log(ratio) - p + q, q)


def discrete_loss(process: DiffusionProcess, num_steps: int | None) -> Objective:
    """The objective of D3PM for a process, in its schedule's number of steps, or `num_steps` where that has none.

    Raises SettingError where neither says how many, or each says another number.
    """
    own = process.schedule.num_steps
    if own is not None and num_steps is not None and own != num_steps:
        raise SettingError("num_steps", num_steps, f"{own}, the number of the schedule's steps")
    count = own or num_steps
    if count is None:
        raise SettingError("num_steps", "None", "a number of steps, as the schedule has none")
    return (DiscreteSubsLoss if process.graph.absorbing else D3pmLoss)(process, count)
