"""Schedules of Gaussian diffusion in T steps: beta_t, the fraction of variance that step t replaces by noise.

Ho et al. 2020 (DDPM) for the linear schedule, Nichol and Dhariwal 2021 for the cosine. All tables are float64 [T + 1]:
entry t is of step t in 1 .. T, and entry 0, before the first step, is 0.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, ShapeError, check_count, check_number

BetaKind = Literal["linear", "cosine", "constant"]

MAX_BETA = 0.999
"""Nichol and Dhariwal's bound, which keeps every step invertible."""

_COSINE_OFFSET = 0.008


def beta_table(kind: BetaKind, num_steps: int, beta_1: float = 1e-4, beta_2: float = 0.02) -> Tensor:
    """Return beta_t, float64 [T + 1] with T = `num_steps`.

    linear: linearly from `beta_1` at t = 1 to `beta_2` at t = T. constant: `beta_1`, which `beta_2` must equal.
    cosine: alpha_bar_t falls as cos^2 of (t / T + 0.008) / 1.008 * pi / 2; `beta_1` and `beta_2` are ignored.
    Raises SettingError for an unknown kind, T < 1 or a beta outside (0, 0.999].
    """
    if kind not in get_args(BetaKind):
        raise SettingError("kind", repr(kind), "linear, cosine or constant")
    check_count("num_steps", num_steps)
    if kind == "cosine":
        return _cosine(num_steps)
    check_number("beta_1", beta_1, 0.0, MAX_BETA, low_open=True)
    check_number("beta_2", beta_2, 0.0, MAX_BETA, low_open=True)
    if kind == "constant" and beta_1 != beta_2:
        raise SettingError("beta_2", beta_2, f"beta_1 = {beta_1:g}, because a constant schedule has one beta")
    if beta_1 > beta_2:
        raise SettingError("beta_1", beta_1, f"at most beta_2 = {beta_2:g}")
    steps = torch.linspace(beta_1, beta_2, num_steps, dtype=torch.float64, device="cpu")
    return torch.cat([steps.new_zeros(1), steps])


def check_betas(betas: Tensor) -> Tensor:
    """Return the table as float64 on the CPU; raise ShapeError unless [T + 1], SettingError for an invalid beta."""
    if betas.dim() != 1 or len(betas) < 2 or not betas.is_floating_point():
        raise ShapeError("betas", f"{betas.dtype} {list(betas.shape)}", "floats [T + 1], entry 0 for no step")
    table = betas.detach().to("cpu", torch.float64)
    wrong = ~((table >= 0) & (table < 1))
    wrong[1:] |= table[1:] == 0
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise SettingError(f"betas[{index}]", float(table[index]), "a number in (0, 1), or 0 at entry 0")
    return table


def strided_times(num_steps: int, steps: int) -> list[int]:
    """Return `steps` + 1 times from T = `num_steps` down to 0, spaced as evenly as ints can be (Song et al. 2021, DDIM).

    Raises SettingError unless 1 <= steps <= T.
    """
    check_count("num_steps", num_steps)
    if check_count("steps", steps) > num_steps:
        raise SettingError("steps", steps, f"at most the {num_steps} steps of the schedule")
    return [num_steps - (num_steps * step + steps // 2) // steps for step in range(steps)] + [0]


def _cosine(num_steps: int) -> Tensor:
    share = torch.arange(num_steps + 1, dtype=torch.float64, device="cpu") / num_steps
    alpha_bar = torch.cos((share + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(MAX_BETA)
    return torch.cat([betas.new_zeros(1), betas])
