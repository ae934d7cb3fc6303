"""Small denoisers of latents: three linear layers, and residual blocks of one linear layer each."""

from torch import Tensor, nn

from model.latent.networks.conditions import SineCondition, check_inputs


class LinearModel(nn.Module):
    """Latent plus time embedding through three linear layers with LeakyReLU, latent_dim to twice that and back."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.condition = SineCondition(latent_dim)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 2 * latent_dim),
            nn.LeakyReLU(),
            nn.Linear(2 * latent_dim, latent_dim),
            nn.LeakyReLU(),
            nn.Linear(latent_dim, latent_dim),
        )

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Denoise x [B, latent_dim] at t [B] or [B, 1] in [0, 1], given z_sem [B, latent_dim]; raises InputError."""
        out: Tensor = self.layers(x + self.condition(check_inputs(x, t, z_sem, self.latent_dim), z_sem))
        return out


class ResidualLinear(nn.Module):
    """Latent plus time embedding through residual blocks of LayerNorm, linear and LeakyReLU, then a linear layer.

    `residual=False` omits the residual connection, as in DMLP: LayerNorm then hides the norm of the latent, and so the
    noise level, from all later layers.
    """

    def __init__(self, latent_dim: int, *, num_layers: int = 2, residual: bool = True) -> None:
        super().__init__()
        self.latent_dim, self.residual = latent_dim, residual
        self.condition = SineCondition(latent_dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(latent_dim), nn.Linear(latent_dim, latent_dim), nn.LeakyReLU())
            for _ in range(num_layers)
        )
        self.last = nn.Linear(latent_dim, latent_dim)

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor | None = None) -> Tensor:
        """Denoise x [B, latent_dim] at t [B] or [B, 1] in [0, 1], given z_sem [B, latent_dim]; raises InputError."""
        hidden = x + self.condition(check_inputs(x, t, z_sem, self.latent_dim), z_sem)
        for block in self.blocks:
            hidden = hidden + block(hidden) if self.residual else block(hidden)
        out: Tensor = self.last(hidden)
        return out
