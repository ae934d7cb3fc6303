"""Self-conditioning (Analog Bits, Chen et al. 2022, arXiv 2208.04202): the last estimate of x_0 is an input."""

from torch import Tensor, nn

from model.latent.networks.conditions import check_latent


class SelfConditioned(nn.Module):
    """Wrapper of a denoiser of latents that adds a linear projection of the estimate to its input.

    The projection has no bias and is zero at first: an estimate changes nothing before training, and zeros are
    equivalent to no estimate.
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        self.linear = nn.Linear(latent_dim, latent_dim, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor | None = None, *, estimate: Tensor | None = None) -> Tensor:
        """Denoise x [B, latent_dim] with the network, given an estimate of x_0 of its shape; raises InputError."""
        if estimate is not None:
            check_latent("the estimate", estimate, self.latent_dim)
            x = x + self.linear(estimate.to(self.linear.weight.dtype))
        out: Tensor = self.network(x, t) if z_sem is None else self.network(x, t, z_sem)
        return out
