"""The multilayer perceptron with skips of Diffusion Autoencoders (Preechakul et al. 2022, arXiv 2111.15640)."""

import torch
from torch import Tensor, nn

from model.latent.networks.conditions import Condition, check_inputs
from model.transformer.inputs import InputError


class MLPSkipNet(nn.Module):
    """MLP of `num_layers` layers of `width`, with the input concatenated to that of each later layer.

    It has 85.9 M parameters for a latent of 128. Each linear layer but the last: times 1 + Linear(SiLU(condition)),
    LayerNorm, SiLU, dropout. The condition is the time embedding plus z_sem; `conditions.Condition` explains
    `time_scale`, which is 1.0 in DMLP. Raises InputError for fewer than 2 layers.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        width: int = 2048,
        num_layers: int = 20,
        time_dim: int = 64,
        time_scale: float = 1000.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise InputError(f"num_layers is {num_layers}; an input and an output layer are needed, so 2 or more")
        self.latent_dim = latent_dim
        self.condition = Condition(latent_dim, time_dim, time_scale)
        widths = [latent_dim] + [width + latent_dim] * (num_layers - 2)
        self.layers = nn.ModuleList(ModulatedLinear(in_width, width, latent_dim, dropout) for in_width in widths)
        self.last = nn.Linear(width + latent_dim, latent_dim)

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Denoise x [B, latent_dim] at t [B] or [B, 1] in [0, 1], given z_sem [B, latent_dim]; raises InputError."""
        condition = self.condition(check_inputs(x, t, z_sem, self.latent_dim), z_sem)
        hidden = self.layers[0](x, condition)
        for layer in self.layers[1:]:
            hidden = layer(torch.cat([hidden, x], -1), condition)
        out: Tensor = self.last(torch.cat([hidden, x], -1))
        return out


class ModulatedLinear(nn.Module):
    """Linear, times 1 + Linear(SiLU(condition)), LayerNorm, SiLU, dropout: [B, in_width] to [B, width]."""

    def __init__(self, in_width: int, width: int, condition_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, width)
        self.scale = nn.Linear(condition_dim, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x [B, in_width], conditioned on `condition` [B, condition_dim], to [B, width]."""
        scaled = self.linear(x) * (1 + self.scale(nn.functional.silu(condition)))
        out: Tensor = self.dropout(nn.functional.silu(self.norm(scaled)))
        return out
