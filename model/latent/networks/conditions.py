"""What a denoiser of latents is told besides the latent: the time, and a vector z_sem; and the check of all three."""

import math

import torch
from torch import Tensor, nn

from model.inputs import InputError, describe

MAX_PERIOD = 10_000.0


def check_inputs(x: Tensor, t: Tensor, z_sem: Tensor | None, latent_dim: int) -> Tensor:
    """The times as [B]; raises InputError unless x is float [B, latent_dim], t float [B] or [B, 1], z_sem as x."""
    check_latent("the latent", x, latent_dim)
    if z_sem is not None:
        check_latent("z_sem", z_sem, latent_dim)
        if len(z_sem) != len(x):
            raise InputError(f"z_sem has {len(z_sem)} rows, and the latent {len(x)}")
    if not isinstance(t, Tensor) or not t.is_floating_point() or list(t.shape) not in ([len(x)], [len(x), 1]):
        raise InputError(f"t is {describe(t)}, and float [{len(x)}], a time in [0, 1] for each row, fits")
    return t.reshape(-1)


def check_latent(name: str, x: Tensor, latent_dim: int) -> None:
    """Raise InputError unless x is float [B, latent_dim]; the message names both widths."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        raise InputError(f"{name} is {describe(x)}, and float [B, {latent_dim}] fits")
    if x.shape[1] != latent_dim:
        raise InputError(
            f"{name} is {x.shape[1]} wide, and the network was built for {latent_dim}; "
            f"latent_dim={x.shape[1]} builds one that fits"
        )


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of values [B] at width / 2 frequencies from 1 to 1 / 10,000: [B, width], float32 or wider.

    Vaswani et al. 2017; `width` is even.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    places = torch.arange(width // 2, device=values.device, dtype=values.dtype)
    angles = values[:, None] * torch.exp(-math.log(MAX_PERIOD) * places / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], -1)


class Condition(nn.Module):
    """Time t [B] in [0, 1] and z_sem to [B, latent_dim]: sinusoids through two linears, plus z_sem.

    The sinusoids see t * time_scale. With 1, as DMLP has it, all times look alike: the embeddings of 0.1 and 1.0 have
    a cosine of 0.97. Raises InputError for an odd `time_dim`.
    """

    def __init__(self, latent_dim: int, time_dim: int = 64, time_scale: float = 1000.0) -> None:
        super().__init__()
        if time_dim < 2 or time_dim % 2:
            raise InputError(f"time_dim is {time_dim}, and sines and cosines need an even number, 2 or more")
        self.time_dim, self.time_scale = time_dim, time_scale
        self.first = nn.Linear(time_dim, latent_dim)
        self.second = nn.Linear(latent_dim, latent_dim)

    def forward(self, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Embed t [B] to [B, latent_dim], and add z_sem [B, latent_dim] where there is one."""
        features = sinusoids(t * self.time_scale, self.time_dim).to(self.first.weight.dtype)
        told: Tensor = self.second(nn.functional.silu(self.first(features)))
        return told if z_sem is None else told + z_sem.to(told.dtype)


class SineCondition(nn.Module):
    """The same from a learned basis: sin(Linear(LeakyReLU(Linear(t)))), the first linear without bias, plus z_sem."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, latent_dim, bias=False)
        self.second = nn.Linear(latent_dim, latent_dim)

    def forward(self, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Embed t [B] to [B, latent_dim], and add z_sem of that shape where there is one."""
        hidden = nn.functional.leaky_relu(self.first(t[:, None].to(self.first.weight.dtype)))
        told = torch.sin(self.second(hidden))
        return told if z_sem is None else told + z_sem.to(told.dtype)
