"""The multilayer perceptron with skips of Diffusion Autoencoders (Preechakul et al. 2022, arXiv 2111.15640)."""

import torch
from torch import Tensor, nn

from model.inputs import InputError
from model.latent.networks.conditions import Condition, check_inputs


class MLPSkipNet(nn.Module):
    """`num_layers` linears of `width`, the input joined to what each but the first is given; 85.9 M parameters for 128.

    After each linear but the last: times 1 + Linear(SiLU(condition)), LayerNorm, SiLU, dropout. The condition is the
    time's embedding plus z_sem (`conditions.Condition`, which says what `time_scale` is for). `time_scale=1.0` is the
    network of DMLP. Raises InputError for fewer than 2 layers.
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
            raise InputError(f"num_layers is {num_layers}, and a way in and a way out need 2 or more")
        self.latent_dim = latent_dim
        self.condition = Condition(latent_dim, time_dim, time_scale)
        widths = [latent_dim] + [width + latent_dim] * (num_layers - 2)
        self.layers = nn.ModuleList(ModulatedLinear(given, width, latent_dim, dropout) for given in widths)
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
    """Linear, times 1 + Linear(SiLU(condition)), LayerNorm, SiLU, dropout: [B, given] to [B, width]."""

    def __init__(self, given: int, width: int, condition_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(given, width)
        self.scale = nn.Linear(condition_dim, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x [B, given], told `condition` [B, condition_dim]."""
        scaled = self.linear(x) * (1 + self.scale(nn.functional.silu(condition)))
        out: Tensor = self.dropout(nn.functional.silu(self.norm(scaled)))
        return out
