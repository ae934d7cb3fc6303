"""Joint training of an autoencoder of texts and a diffusion of its latents."""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from model.latent.abstract import JointLosses, VAE_DDPM_Abs
from model.latent.schedule import Compat, check_compat
from model.transformer.inputs import InputError, describe

Weighting = Literal["uniform", "inverse"]


class VAE_DDPM(VAE_DDPM_Abs):
    """Both losses of a batch: the autoencoder's, plus `ddpm_weight` times the mean of the diffusion's.

    Arguments:
        model_vae: called as `model_vae(inputs, labels)`, returns (loss_rec, loss_kl, loss, latent_z, mu), losses [B].
        ddpm: called as `ddpm(latent_z, mu)`, returns a loss [B] and a weight [B, 1]; it has `n_T` steps.
        ddpm_weight: with 0 the loss is the autoencoder's mean loss, and the diffusion is only measured.
        weighting: uniform, the mean of the autoencoder's losses; inverse, each row's loss divided by n_T times the
            weight of its time, which makes the two losses of a row parts of one bound up to a factor.
        compat: "dmlp" is inverse as published, which multiplies the weights of all rows with the losses of all rows.
    Raises InputError for an invalid setting.
    """

    def __init__(
        self,
        model_vae: nn.Module,
        ddpm: nn.Module,
        ddpm_weight: float,
        *,
        weighting: Weighting = "uniform",
        compat: Compat = None,
    ) -> None:
        check_compat(compat)
        if weighting not in get_args(Weighting):
            raise InputError(f"weighting is {weighting!r}; use 'uniform' or 'inverse'")
        if not 0 <= ddpm_weight < float("inf"):
            raise InputError(f"ddpm_weight is {ddpm_weight}; use a finite number, 0 or more")
        super().__init__(model_vae, ddpm, ddpm_weight)
        self.weighting, self.compat, self.n_T = weighting, compat, cast(int, ddpm.n_T)

    def forward(self, inputs: Tensor, labels: Tensor, **draws: Any) -> JointLosses:
        """Return the losses of texts, int64 [B, N] for the encoder and [B, M] for the decoder.

        `loss` is the scalar to minimise. `draws` (t, noise, generator) are passed to the diffusion. Raises InputError
        if the losses of a part are not [B].
        """
        loss_rec, loss_kl, loss, latent_z, mu = self.model_vae(inputs, labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.ddpm_weight > 0):
            ddpm_loss, loss_weight = self.ddpm(latent_z, mu, **draws)
        total = self._total(loss, ddpm_loss, loss_weight)
        return JointLosses(loss_rec, loss_kl, total, latent_z, mu, ddpm_loss, loss_weight)

    def _total(self, loss: Tensor, ddpm_loss: Tensor, loss_weight: Tensor) -> Tensor:
        settings: Any = {"weighting": self.weighting, "compat": self.compat}
        return joint_loss(loss, ddpm_loss, loss_weight, self.ddpm_weight, self.n_T, **settings)


def joint_loss(
    loss: Tensor,
    ddpm_loss: Tensor,
    loss_weight: Tensor,
    ddpm_weight: float,
    num_steps: int,
    *,
    weighting: Weighting = "uniform",
    compat: Compat = None,
) -> Tensor:
    """Return the scalar to minimise, from losses [B] of both parts and the weights [B, 1] of the drawn times.

    Settings are those of `VAE_DDPM`. Raises InputError if the losses of a part are not [B].
    """
    rows = len(loss_weight)
    for name, value in (("autoencoder", loss), ("diffusion", ddpm_loss)):
        if list(value.shape) != [rows]:
            raise InputError(f"the {name}'s loss is {describe(value)}; it must be [{rows}], one value for each row")
    if ddpm_weight == 0:
        return loss.mean()
    scale = 1 / (loss_weight * num_steps)  # [B, 1]
    if compat:
        loss = scale * loss  # [B, B]
    elif weighting == "inverse":
        loss = scale[:, 0] * loss
    return loss.mean() + ddpm_weight * ddpm_loss.mean()
