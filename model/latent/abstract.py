"""Interfaces of latent diffusion of text, for custom classes: an autoencoder, a diffusion model, and both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.latent.variational import reparameterise

Criterion = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[float, float, int], Mapping[str, Tensor]]


class VAE_Abs(nn.Module, ABC):
    """Interface of an autoencoder: an encoder and a decoder, moved to `device` if given; subclasses may add `args`.

    A subclass must have `forward`; `reparameterize` draws from a Gaussian unless it is overridden.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, *args: Any, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        if device is not None:
            self.to(device)

    def reparameterize(self, mu: Tensor, logvar: Tensor, nsamples: int = 1) -> Tensor:
        """Sample N(mu, exp(logvar)), both [B, latent]; return float [B, nsamples, latent]."""
        size = (len(mu), nsamples, mu.shape[-1])
        noise = torch.randn(size, device=mu.device, dtype=mu.dtype)
        return reparameterise(mu.unsqueeze(1), logvar.unsqueeze(1), noise)

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (loss_rec, loss_kl, loss, latent_z, mu) of texts, int64 [B, N] and [B, M].

        Losses are [B]; the latent and its mean are [B, latent].
        """


class DDPM_Abs(nn.Module, ABC):
    """Interface of a diffusion of latents: `eps_model(x, t / n_T)`, two betas, n_T steps, criterion and schedule.

    `criterion(target, output)` returns a loss for each element, `ddpm_schedule(*betas, n_T)` the tables.
    """

    def __init__(
        self,
        eps_model: nn.Module,
        betas: tuple[float, float],
        n_T: int,
        criterion: Criterion,
        ddpm_schedule: Schedule,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.eps_model, self.betas, self.n_T = eps_model, betas, n_T
        self.criterion, self.ddpm_schedule = criterion, ddpm_schedule

    @abstractmethod
    def forward(self, x: Tensor, mu: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loss [B] and weight [B, 1] of latents x [B, latent], drawn around mu of the same shape."""

    @abstractmethod
    def sample(
        self,
        n_sample: int,
        size: int | tuple[int, ...],
        device: torch.device | str | None = None,
        fp16: bool = False,
    ) -> Tensor:
        """Sample latents [n_sample, *size] from noise."""


class VAE_DDPM_Abs(nn.Module, ABC):
    """Interface of an autoencoder and a diffusion of its latents, with the weight of the diffusion loss."""

    def __init__(self, model_vae: nn.Module, ddpm: nn.Module, ddpm_weight: float, **settings: Any) -> None:
        super().__init__()
        self.model_vae, self.ddpm, self.ddpm_weight = model_vae, ddpm, ddpm_weight

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor) -> "JointLosses":
        """Return the losses of texts, int64 [B, N] and [B, M]."""


class JointLosses(NamedTuple):
    """Losses of both models for a batch, in the published order.

    `loss` is the scalar to minimise; loss_rec, loss_kl and ddpm_loss are [B], latent_z and mu [B, latent], loss_weight
    is [B, 1].
    """

    loss_rec: Tensor
    loss_kl: Tensor
    loss: Tensor
    latent_z: Tensor
    mu: Tensor
    ddpm_loss: Tensor
    loss_weight: Tensor


VAE_abs = VAE_Abs
DDPM_abs = DDPM_Abs
VAE_DDPM_abs = VAE_DDPM_Abs
