"""Gaussian diffusion of vectors as mathematics: Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM), Salimans and Ho 2022.

x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, for t in 0 .. T. A network may predict the noise, x_0, or
v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0. Every function takes x_0 and x_t as [B, ...]; times are ints, or
int64 [B] with one for each row. Coefficients come from float64 tables and are rounded to x_t's dtype, which is the
result's; the caller must widen half precision.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, ShapeError, TimeError, check_number, check_tokens
from model_factory.diffusion.gaussian_schedule import check_betas

Prediction = Literal["noise", "x0", "v"]
Variance = Literal["posterior", "forward"]
Times = Tensor | int


class GaussianDiffusion:
    """Process of a table of betas, float [T + 1], whose entry 0 is the noise before step 1, usually 0.

    `alpha_bar` is the remaining fraction of x_0's variance, `lost` is 1 - alpha_bar without cancellation; both float64
    [T + 1] on the CPU, because some devices have no float64. Raises ShapeError and SettingError for an invalid table.
    """

    def __init__(self, betas: Tensor) -> None:
        self._log = torch.log1p(-check_betas(betas)).cumsum(0)
        self.alpha_bar, self.lost = self._log.exp(), -torch.expm1(self._log)
        self.num_steps = len(betas) - 1

    def q_sample(self, x_0: Tensor, t: Times, noise: Tensor) -> Tensor:
        """Return x_t from x_0 and standard normal noise of x_0's shape; raise TimeError and ShapeError."""
        self._check_like("noise", noise, x_0)
        return self._at(self.alpha_bar.sqrt(), t, x_0) * x_0 + self._at(self.lost.sqrt(), t, x_0) * noise

    def target(self, prediction: Prediction, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
        """Return the training target of a network that predicts `prediction`, of the shape of x_0 and of the noise.

        Raises SettingError, TimeError and ShapeError.
        """
        self._check_like("noise", noise, x_0)
        if check_prediction(prediction) != "v":
            return noise if prediction == "noise" else x_0
        return self._at(self.alpha_bar.sqrt(), t, x_0) * noise - self._at(self.lost.sqrt(), t, x_0) * x_0

    def x0_from(self, prediction: Prediction, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """Return x_0 predicted by a network's output of the shape of x_t, at t >= 1.

        Raises SettingError, TimeError and ShapeError.
        """
        self._check_like("output", output, x_t)
        if check_prediction(prediction) == "x0":
            return output
        kept, noisy = self._at(self.alpha_bar.sqrt(), t, x_t), self._at(self.lost.sqrt(), t, x_t)
        return kept * x_t - noisy * output if prediction == "v" else (x_t - noisy * output) / kept

    def noise_from(self, prediction: Prediction, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """Return the noise predicted by a network's output of the shape of x_t, at t >= 1.

        Raises SettingError, TimeError and ShapeError.
        """
        self._check_like("output", output, x_t)
        if check_prediction(prediction) == "noise":
            return output
        kept, noisy = self._at(self.alpha_bar.sqrt(), t, x_t), self._at(self.lost.sqrt(), t, x_t)
        return noisy * x_t + kept * output if prediction == "v" else (x_t - kept * output) / noisy

    def posterior(self, x_t: Tensor, x_0: Tensor, t: Times, s: Times) -> tuple[Tensor, Tensor]:
        """Return mean [B, ...] and variance (one for each row, broadcastable) of q(x_s | x_t, x_0), for any s < t.

        Ho et al. 2020, equation 7, is the case s = t - 1. Raises TimeError and ShapeError.
        """
        self._check_like("x_0", x_0, x_t)
        replaced, lost_s, lost_t = self._between(t, s, x_t)  # float64
        from_x_0 = self._rows(self.alpha_bar.sqrt(), s, x_t) * replaced / lost_t
        from_x_t = (1 - replaced).sqrt() * lost_s / lost_t
        mean = _cast_like(from_x_0, x_t) * x_0 + _cast_like(from_x_t, x_t) * x_t
        return mean, _cast_like(replaced * lost_s / lost_t, x_t)

    def ancestral_step(
        self, x_t: Tensor, x_0: Tensor, t: Times, s: Times, noise: Tensor | None, variance: Variance = "posterior"
    ) -> Tensor:
        """Draw x_s from x_t, an estimate of x_0 and standard normal noise of the shape of x_t; without noise, the mean.

        The variance is the posterior's, beta-tilde, or the `forward` step's, 1 - alpha_bar_t / alpha_bar_s, which is
        beta_t for s = t - 1: Ho et al. 2020, section 3.2. Raises SettingError, TimeError and ShapeError.
        """
        if variance not in get_args(Variance):
            raise SettingError("variance", repr(variance), "posterior or forward")
        mean, spread = self.posterior(x_t, x_0, t, s)
        if noise is None:
            return mean
        self._check_like("noise", noise, x_t)
        if variance == "forward":
            spread = _cast_like(self._between(t, s, x_t)[0], x_t)
        return mean + spread.sqrt() * noise

    def ddim_step(
        self, x_t: Tensor, x_0: Tensor, t: Times, s: Times, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """Return x_s by Song et al. 2021, equation 12: deterministic for eta = 0, the ancestral step for eta = 1.

        x_0, the noise and x_s have the shape of x_t.

        Raises SettingError for an eta outside [0, 1], or above 0 without noise; TimeError and ShapeError.
        """
        if check_number("eta", eta, 0.0, 1.0) > 0 and noise is None:
            raise SettingError("eta", eta, "0 without noise")
        replaced, lost_s, lost_t = self._between(t, s, x_t)  # float64
        direction = _cast_like((lost_s * (1 - eta**2 * replaced / lost_t)).sqrt(), x_t)
        x_s = self._at(self.alpha_bar.sqrt(), s, x_t) * x_0 + direction * self.noise_from("x0", x_0, x_t, t)
        if noise is None or eta == 0:
            return x_s
        self._check_like("noise", noise, x_t)
        return x_s + _cast_like(eta * (replaced * lost_s / lost_t).sqrt(), x_t) * noise

    def _between(self, t: Times, s: Times, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fraction of variance replaced in steps s + 1 .. t, and `lost` at s and at t, float64."""
        later, earlier = (self._rows(self._log, time, x) for time in (t, s))
        if bool((later >= earlier).any()):
            raise TimeError("s", s, f"a time before t = {t}")
        return -torch.expm1(later - earlier), self._rows(self.lost, s, x), self._rows(self.lost, t, x)

    def _at(self, table: Tensor, t: Times, x: Tensor) -> Tensor:
        return _cast_like(self._rows(table, t, x), x)

    def _rows(self, table: Tensor, t: Times, x: Tensor) -> Tensor:
        """Return the table's float64 entries at t, on the CPU, in a shape that broadcasts over x [B, ...]."""
        if isinstance(t, int):
            if not 0 <= t <= self.num_steps:
                raise TimeError("t", t, f"a step from 0 to {self.num_steps}")
            return table[t]
        check_tokens("t", t, self.num_steps + 1)
        if t.shape != x.shape[:1]:
            raise ShapeError("t", f"shape {list(t.shape)}", f"[{len(x)}], a step for each row")
        return table[t.cpu()].reshape(-1, *[1] * (x.dim() - 1))

    @staticmethod
    def _check_like(name: str, given: Tensor, x: Tensor) -> None:
        if given.shape != x.shape:
            raise ShapeError(name, f"shape {list(given.shape)}", f"{list(x.shape)}, the shape of the latent")


def _cast_like(value: Tensor, x: Tensor) -> Tensor:
    """Cast a coefficient to x's dtype and device; a scalar stays on the CPU, which works with any device."""
    return value.to(x.dtype) if value.dim() == 0 else value.to(x.device, x.dtype)


def check_prediction(prediction: str) -> str:
    """Return the prediction type; raise SettingError unless it is noise, x0 or v."""
    if prediction not in get_args(Prediction):
        raise SettingError("prediction", repr(prediction), "noise, x0 or v")
    return prediction
