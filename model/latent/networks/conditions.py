"""Conditioning of a denoiser of latents: embeddings of the time, plus a vector z_sem; and checks of all inputs."""

import math

import torch
from torch import Tensor, nn

from model.transformer.inputs import InputError, describe

MAX_PERIOD = 10_000.0


def check_inputs(x: Tensor, t: Tensor, z_sem: Tensor | None, latent_dim: int) -> Tensor:
    """Return t as [B]; raise InputError unless x is float [B, latent_dim], t float [B] or [B, 1], z_sem like x."""
    check_latent("the latent", x, latent_dim)
    if z_sem is not None:
        check_latent("z_sem", z_sem, latent_dim)
        if len(z_sem) != len(x):
            raise InputError(f"z_sem has {len(z_sem)} rows, and the latent {len(x)}")
    if not isinstance(t, Tensor) or not t.is_floating_point() or list(t.shape) not in ([len(x)], [len(x), 1]):
        raise InputError(f"t is {describe(t)}; it must be float [{len(x)}], a time in [0, 1] for each row")
    return t.reshape(-1)


def check_latent(name: str, x: Tensor, latent_dim: int) -> None:
    """Raise InputError unless x is float [B, latent_dim]; the message names both widths."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        raise InputError(f"{name} is {describe(x)}; it must be float [B, {latent_dim}]")
    if x.shape[1] != latent_dim:
        raise InputError(
            f"{name} is {x.shape[1]} wide, and the network was built for {latent_dim}; "
            f"build it with latent_dim={x.shape[1]}"
        )


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Return cosines, then sines, of values [B] at width / 2 frequencies from 1 to 1 / 10,000: [B, width].

    From Vaswani et al. 2017, in float32 or wider; `width` is even.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    steps = torch.arange(width // 2, device=values.device, dtype=values.dtype)
    angles = values[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], -1)


class Condition(nn.Module):
    """Embedding of time t [B] in [0, 1], [B, latent_dim]: sinusoids through two linear layers, plus z_sem.

    The sinusoids are of t * time_scale. With a scale of 1, as in DMLP, times are hard to tell apart: the embeddings of
    0.1 and 1.0 have a cosine similarity of 0.97. Raises InputError for an odd `time_dim`.
    """

    def __init__(self, latent_dim: int, time_dim: int = 64, time_scale: float = 1000.0) -> None:
        super().__init__()
        if time_dim < 2 or time_dim % 2:
            raise InputError(f"time_dim is {time_dim}; sines and cosines need an even number, 2 or more")
        self.time_dim, self.time_scale = time_dim, time_scale
        self.first = nn.Linear(time_dim, latent_dim)
        self.second = nn.Linear(latent_dim, latent_dim)

    def forward(self, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Embed t [B] to [B, latent_dim], and add z_sem [B, latent_dim] if given."""
        features = sinusoids(t * self.time_scale, self.time_dim).to(self.first.weight.dtype)
        time_emb: Tensor = self.second(nn.functional.silu(self.first(features)))
        return time_emb if z_sem is None else time_emb + z_sem.to(time_emb.dtype)


class SineCondition(nn.Module):
    """Embedding of time by a learned basis: sin(Linear(LeakyReLU(Linear(t)))), the first without bias, plus z_sem."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, latent_dim, bias=False)
        self.second = nn.Linear(latent_dim, latent_dim)

    def forward(self, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Embed t [B] to [B, latent_dim], and add z_sem of that shape if given."""
        with torch.autocast(t.device.type, enabled=False):  # bfloat16 has 8 bits for times and angles
            hidden = nn.functional.leaky_relu(self.first(t[:, None].to(self.first.weight.dtype)))
            time_emb = torch.sin(self.second(hidden))
        return time_emb if z_sem is None else time_emb + z_sem.to(time_emb.dtype)
