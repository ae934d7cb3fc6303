"""Functions of a variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) with a Gaussian latent."""

import torch
from torch import Tensor


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return mu + exp(logvar / 2) * noise, all of the same shape."""
    return mu + torch.exp(0.5 * logvar) * noise


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, e^logvar) || N(0, 1)) of each coordinate in nats, float32 or wider, in the shape of mu."""
    mu, logvar = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (mu, logvar))
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1)


def kl_cost(kl: Tensor, free_bits: float = 0.0) -> Tensor:
    """Sum kl [B, D] to nats [B], each coordinate at least `free_bits` (Kingma et al. 2016, arXiv 1606.04934)."""
    return kl.clamp_min(free_bits).sum(-1)


def cyclical_weight(step: int, total: int, cycles: int, ramp: float) -> float:
    """Return the share of the full weight at `step` of `total`: in each cycle 0 to 1 over `ramp` of it, then 1.

    Cyclical annealing is from Fu et al. 2019 (arXiv 1903.10145). Without cycles the share is 1.
    """
    if cycles == 0:
        return 1.0
    position = (step * cycles / max(1, total)) % 1.0
    return min(1.0, position / ramp)
