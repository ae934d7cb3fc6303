"""Interfaces of latent diffusion of text, for classes of a user's own: an autoencoder, a diffusion, and both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[float, float, int], Mapping[str, Tensor]]


class VAE_Abs(nn.Module, ABC):
    """An encoder and a decoder, moved to `device` where one is given; `args` are what a class of its own adds."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, *args: Any, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        if device is not None:
            self.to(device)

    @abstractmethod
    def reparameterize(self, mu: Tensor, logvar: Tensor, nsamples: int = 1) -> Tensor:
        """Draws of N(mu, exp(logvar)), both [B, latent]: float [B, nsamples, latent]."""

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Losses of texts, int64 [B, N] and [B, M]: (loss_rec, loss_kl, loss, latent_z, mu).

        Losses are [B], the latent and its mean [B, latent].
        """


class DDPM_Abs(nn.Module, ABC):
    """A diffusion of latents: a network `eps_model(x, t / n_T)`, two betas, n_T steps, a criterion and a schedule.

    `criterion(target, output)` gives a loss for each element, `ddpm_schedule(*betas, n_T)` the tables.
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
        """Loss [B] and weight [B, 1] of latents x [B, latent], drawn around mu of the same shape."""

    @abstractmethod
    def sample(
        self,
        n_sample: int,
        size: int | tuple[int, ...],
        device: torch.device | str | None = None,
        fp16: bool = False,
    ) -> Tensor:
        """Latents from noise, [n_sample, *size]."""


class VAE_DDPM_Abs(nn.Module, ABC):
    """An autoencoder and a diffusion of its latents, with the weight of the diffusion's loss."""

    def __init__(self, model_vae: nn.Module, ddpm: nn.Module, ddpm_weight: float, **settings: Any) -> None:
        super().__init__()
        self.model_vae, self.ddpm, self.ddpm_weight = model_vae, ddpm, ddpm_weight

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor) -> "JointLosses":
        """Losses of texts, int64 [B, N] and [B, M]."""


class JointLosses(NamedTuple):
    """What the two models say of a batch, in the published order.

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
