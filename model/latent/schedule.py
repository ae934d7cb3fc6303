"""Tables of Gaussian diffusion under their published names, and a module that keeps them in float32."""

from collections.abc import Mapping
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor, nn

from model.latent.registry import LATENT_SCHEDULES, resolve_part
from model.transformer.inputs import InputError, describe
from model_factory.diffusion.errors import check_count
from model_factory.diffusion.gaussian import GaussianDiffusion, Prediction
from model_factory.diffusion.gaussian_schedule import beta_table, check_betas
from model_factory.yaml_config.from_registry import name_of
from model_factory.yaml_config.strict_model import StrictModel

Compat = Literal["dmlp"] | None

DMLP_BETA = 0.008

_MAX_SIGNAL_LEFT, _MAX_BETA = 0.01, 0.99


def ddpm_schedule(
    beta1: float, beta2: float, T: int, *, kind: StrictModel | str = "linear", compat: Compat = None
) -> dict[str, Tensor]:
    """Compute tables float32 [T + 1] by name; entry t is of step t, entry 0 of the clean latent.

    alpha_t = 1 - beta_t; oneover_sqrta = 1 / sqrt(alpha_t); sqrt_beta_t; alphabar_t, their product up to t; sqrtab and
    sqrtmab, the roots of alphabar_t and of 1 - alphabar_t; mab_over_sqrtmab = beta_t / sqrtmab; loss_weight
    = beta_t / (2 alpha_t (1 - alphabar_t)), the weight of a squared error of the noise in the bound (Ho et al. 2020,
    equation 12, with sigma^2 = beta_t). `kind` is the name of a registered schedule, or its section; cosine ignores
    the two betas. With `compat="dmlp"` beta is 0.008 throughout, at entry 0 too, whatever the arguments. Raises
    UnknownNameError for an unknown kind, SettingError for betas or a T out of range, InputError for an unknown compat.
    """
    check_compat(compat)
    betas = beta_table("constant", T, DMLP_BETA, DMLP_BETA) if compat else _make_betas(kind, T, (beta1, beta2))
    if compat:
        betas[0] = DMLP_BETA
    log_alpha = torch.log1p(-betas)
    log_kept = log_alpha.cumsum(0)
    kept, lost = log_kept.exp(), -torch.expm1(log_kept)
    divisor = torch.where(lost > 0, lost, 1.0)  # entry 0 has a beta of 0, and gives 0
    tables = {
        "alpha_t": log_alpha.exp(),
        "beta_t": betas,
        "oneover_sqrta": torch.exp(-log_alpha / 2),
        "sqrt_beta_t": betas.sqrt(),
        "alphabar_t": kept,
        "sqrtab": kept.sqrt(),
        "sqrtmab": lost.sqrt(),
        "mab_over_sqrtmab": betas / divisor.sqrt(),
        "loss_weight": betas / (2 * (1 - betas) * divisor),
    }
    return {name: table.float() for name, table in tables.items()}


def _make_betas(kind: StrictModel | str, num_steps: int, ends: tuple[float, float]) -> Tensor:
    """Build beta_t, float64 [T + 1], of a registered schedule; raise InputError for a table of another shape."""
    check_count("num_steps", num_steps)
    entry, section = resolve_part(LATENT_SCHEDULES, kind)
    built = entry.build(section, num_steps, ends)
    if not isinstance(built, Tensor) or list(built.shape) != [num_steps]:
        raise InputError(f"schedule {name_of(kind)!r} returns {describe(built)}; it must be float [{num_steps}]")
    betas = built.detach().to("cpu", torch.float64)
    return check_betas(torch.cat([betas.new_zeros(1), betas]))


def check_compat(compat: str | None) -> None:
    """Raise InputError unless `compat` is None or "dmlp"."""
    if compat not in (None, "dmlp"):
        raise InputError(f"compat is {compat!r}; use None, or 'dmlp' for the published system")


def warn_of_ends(diffusion: GaussianDiffusion, prediction: Prediction) -> None:
    """Warn of a schedule that leaves signal at t = T, or has a step too steep to predict noise.

    Sampling starts from pure noise, which differs from x_T if more than 1 % of the variance is signal. A step with beta
    above 0.99 (the last of cosine) amplifies errors of predicted noise tenfold, and DDIM with few steps more: on data
    of two points, 23 % of samples were near one with cosine, and 90 % with a linear schedule.
    """
    left, steepest = (
        float(diffusion.alpha_bar[-1]),
        float(1 - (diffusion.alpha_bar[1:] / diffusion.alpha_bar[:-1]).min()),
    )
    if left > _MAX_SIGNAL_LEFT:
        end = f"t = {diffusion.num_steps}"
        warn(f"the schedule leaves {left:.2g} of the latent's variance at {end}; raise betas or n_T, or use cosine")
    if prediction == "noise" and steepest > _MAX_BETA:
        warn(f"the schedule has a beta of {steepest:.3g}, which amplifies errors of predicted noise; use 'v' or 'x0'")


class ScheduleTables(nn.Module):
    """Module with tables [T + 1] as float32 buffers, which conversions and checkpoints do not change.

    `to(bfloat16)` does not convert them. They are saved, but not loaded: a checkpoint's tables are only compared, so
    that a rounded one does no harm, and one of another schedule is an error of `load_state_dict`.
    """

    beta_t: Tensor
    loss_weight: Tensor

    def register_tables(self, tables: Mapping[str, Tensor], num_steps: int) -> None:
        """Register the tables as buffers; raise InputError unless each is [T + 1], with beta_t and loss_weight."""
        self.table_names = tuple(tables)
        for name in ("beta_t", "loss_weight", *tables):
            if name not in tables or list(tables[name].shape) != [num_steps + 1]:
                found = describe(tables[name]) if name in tables else "missing"
                raise InputError(f"the schedule's table {name} is {found}; it must be float [{num_steps + 1}]")
            self.register_buffer(name, tables[name].detach().float())

    def _apply(self, fn: Any, recurse: bool = True) -> "ScheduleTables":
        tables = {name: getattr(self, name) for name in self.table_names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in tables.items():
            if not table.is_meta:
                setattr(self, name, table.to(getattr(self, name).device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        error_msgs: list[str] = args[-1]
        own, saved = self.beta_t, state_dict.get(prefix + "beta_t")
        if saved is not None and saved.shape != own.shape:
            error_msgs.append(f"{prefix}beta_t has {len(saved) - 1} steps, and this schedule has {len(own) - 1}")
        elif saved is not None and not torch.allclose(saved.to(own), own, rtol=0.01, atol=0.0):  # bfloat16 loses 0.004
            error_msgs.append(
                f"{prefix}beta_t is of another schedule; build the model with the betas and kind of the checkpoint"
            )
        state_dict.update({prefix + name: getattr(self, name) for name in self.table_names})
        super()._load_from_state_dict(state_dict, prefix, *args)
