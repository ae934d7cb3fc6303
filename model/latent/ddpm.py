"""Gaussian diffusion of latent vectors: Ho et al. 2020 (DDPM), sampled as there or by Song et al. 2021 (DDIM)."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from model.latent.abstract import Criterion, DDPM_Abs, Schedule
from model.latent.networks.self_conditioned import SelfConditioned
from model.latent.registry import LATENT_SAMPLERS
from model.latent.schedule import Compat, ScheduleTables, check_compat, ddpm_schedule, warn_of_ends
from model.transformer.generation import evaluating
from model.transformer.inputs import InputError, describe, has_values
from model_factory.diffusion.errors import check_number
from model_factory.diffusion.gaussian import GaussianDiffusion, Prediction, Variance, check_prediction
from model_factory.diffusion.gaussian_schedule import strided_times
from model_factory.diffusion.randomness import Randomness, normal, uniform
from model_factory.diffusion.samplers.base import SamplerChoice, check_settings, find_sampler
from model_factory.yaml_config.strict_model import StrictModel

# Sampling of latents: the step from one time to an earlier one, and half precision of the network.


@dataclass(frozen=True)
class LatentStep:
    """Step of a registered sampler, such as `ancestral` (Ho et al. 2020) or `ddim` (Song et al. 2021)."""

    config: StrictModel
    step: Callable[..., Tensor]
    variance: Variance

    @classmethod
    def create(cls, sampler: SamplerChoice, eta: float, variance: Variance) -> "LatentStep":
        """Create the step of a sampler with its settings; an `eta` above 0 is one of them.

        Raises UnknownSamplerError, and SettingError for settings that the sampler does not have or that are out of range.
        """
        name, entry, settings = find_sampler(LATENT_SAMPLERS, sampler)
        if check_number("eta", eta, 0.0, 1.0):
            settings["eta"] = eta
        return cls(check_settings(name, entry.config_type, settings), entry.step, variance)

    def take(
        self, diffusion: GaussianDiffusion, x_t: Tensor, x_0: Tensor, t: int, s: int, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Compute x_s from x_t and an estimate of x_0, all [B, ...].

        `draw` returns noise of that shape; it is called only if noise is used, never at s = 0.
        """
        return self.step(self.config, diffusion, x_t, x_0, t, s, draw, self.variance)


def half_precision(device: torch.device, enabled: bool) -> "torch.autocast | nullcontext[None]":
    """Return autocast in float16, on the CPU in bfloat16, if enabled."""
    if not enabled:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else torch.float16)


__all__ = ["DDPM", "ddpm_schedule"]


_OWN_SCHEDULE = ddpm_schedule


class DDPM(ScheduleTables, DDPM_Abs):
    """Diffusion of latents: a network that predicts the noise (or x_0, or v), its loss, and its samplers.

    Arguments:
        eps_model: called as `eps_model(x_t, t / n_T)`, x_t [B, latent] and t float32 [B]; returns the shape of x_t.
        betas, n_T, ddpm_schedule: `ddpm_schedule(*betas, n_T)` returns the tables.
        criterion: `criterion(target, output)` returns a loss for each element; None: `nn.MSELoss(reduction="none")`.
        prediction: noise, x0, or v = sqrt(alphabar) noise - sqrt(1 - alphabar) x_0 (Salimans and Ho 2022).
        self_conditioning: share of the training rows that get a first estimate of x_0 (Chen et al. 2022); above 0, a
            network that is not `SelfConditioned` is wrapped in one, which needs its `latent_dim`.
        compat: "dmlp" is the published diffusion: its table (unless the schedule is custom), its loss at t = 1, and
            sqrt(beta_t) as the noise of an ancestral step.
    The latent, its noise and the tables are float32 or wider whatever the network's dtype. Warns of a schedule that
    leaves signal at t = T, or is too steep to predict noise (`schedule.warn_of_ends`). Raises InputError for
    incompatible settings, and the ValueErrors of `model_factory.diffusion.errors` for numbers out of range.
    """

    def __init__(
        self,
        eps_model: nn.Module,
        betas: tuple[float, float],
        n_T: int,
        criterion: Criterion | None = None,
        ddpm_schedule: Schedule = ddpm_schedule,
        *,
        prediction: Prediction = "noise",
        self_conditioning: float = 0.0,
        compat: Compat = None,
    ) -> None:
        check_compat(compat)
        check_prediction(prediction)
        check_number("self_conditioning", self_conditioning, 0.0, 1.0)
        if compat and (prediction != "noise" or self_conditioning):
            raise InputError("compat: dmlp predicts the noise without self-conditioning; leave both settings out")
        if compat and ddpm_schedule is _OWN_SCHEDULE:
            ddpm_schedule = partial(_OWN_SCHEDULE, compat=compat)
        if self_conditioning and not isinstance(eps_model, SelfConditioned):
            eps_model = SelfConditioned(eps_model, _latent_dim(eps_model))
        super().__init__(eps_model, betas, n_T, criterion or nn.MSELoss(reduction="none"), ddpm_schedule)
        self.prediction, self.self_conditioning, self.compat = prediction, self_conditioning, compat
        with unset_fake_temporarily():  # small tables, which a summary without storage needs too
            self.register_tables(ddpm_schedule(*betas, n_T), n_T)
            self.diffusion = GaussianDiffusion(self.beta_t)
            warn_of_ends(self.diffusion, prediction)

    def forward(
        self,
        x: Tensor,
        mu: Tensor | None = None,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        generator: Randomness = None,
    ) -> tuple[Tensor, Tensor]:
        """Return loss [B], the mean of the criterion over a row, and weight [B, 1] of latents x [B, latent].

        Arguments:
            t: int64 [B] in 1 .. n_T; drawn by default.
            noise: shape of x; drawn by default, like the rows that get an estimate of x_0.
            generator: source of all draws; with `RowGenerators` each row has its own.
            mu: [B, latent], used only under `compat`: there the loss of rows at t = 1 is alpha_1 / beta_1 times the
                criterion of mu and the predicted x_0.
        The weight is that of predicted noise, from the table. Raises InputError and DiffusionInputError.
        """
        x_0 = self._checked(x)
        t = self._times(x_0, t, generator)
        noise = normal(x_0.shape, generator, x.device, x_0.dtype) if noise is None else noise.to(x_0)
        x_t = self.diffusion.q_sample(x_0, t, noise)
        output = self._output(x_t, t, self._estimate(x_t, t, generator))
        loss = self._row_means(self.diffusion.target(self.prediction, x_0, noise, t), output)
        if self.compat:
            loss = torch.where(t == 1, self._first_step_loss(mu, x_t, output), loss)
        return loss, self.loss_weight[t][:, None]

    @torch.no_grad()
    def sample(
        self,
        n_sample: int,
        size: int | tuple[int, ...],
        device: torch.device | str | None = None,
        fp16: bool = False,
        *,
        steps: int | None = None,
        sampler: SamplerChoice = "ancestral",
        eta: float = 0.0,
        generator: Randomness = None,
        noise: Tensor | None = None,
        watch: Callable[[], object] | None = None,
    ) -> Tensor:
        """Sample latents [n_sample, *size] in the network's dtype.

        Arguments:
            device: by default that of the network.
            fp16: run the network under autocast, in float16, on the CPU in bfloat16.
            steps: number of the n_T steps to take; None: all.
            sampler: name of a registered sampler, or a mapping of `type`, its name, and its settings.
            eta: the setting `eta` of sampler ddim, the share in [0, 1] of the ancestral noise that DDIM adds.
            generator: source of the noise; with `RowGenerators` rows are independent of each other.
            noise: x_T, [n_sample, *size]; drawn by default.
            watch: called after each step; an error that it raises ends the draw.
        The network runs in evaluation mode. Raises InputError and the ValueErrors of `model_factory.diffusion.errors`.
        """
        step = LatentStep.create(sampler, eta, "forward" if self.compat else "posterior")
        like = next(self.eps_model.parameters(), self.beta_t)
        device, wide = torch.device(device or like.device), torch.promote_types(like.dtype, torch.float32)
        shape = (n_sample, *((size,) if isinstance(size, int) else size))
        if noise is not None and tuple(noise.shape) != shape:
            raise InputError(f"noise is {describe(noise)}, and float {list(shape)} is asked for")
        draw = partial(normal, shape, generator, device, wide)
        x = self._checked(draw() if noise is None else noise.to(device, wide))
        estimate: Tensor | None = None
        with evaluating(self.eps_model), half_precision(device, fp16):
            for t, s in pairwise(strided_times(self.n_T, self.n_T if steps is None else steps)):
                seen = estimate if self.self_conditioning else None
                output = self._output(x, torch.full((n_sample,), t, device=device), seen)
                estimate = self.diffusion.x0_from(self.prediction, output, x, t)
                x = step.take(self.diffusion, x, estimate, t, s, draw)
                if watch is not None:
                    watch()
        return x.to(like.dtype)

    def _output(self, x_t: Tensor, t: Tensor, estimate: Tensor | None) -> Tensor:
        """Run the network on x_t at steps t; return its output in the dtype of x_t."""
        like = next(self.eps_model.parameters(), x_t)
        extra = {} if estimate is None else {"estimate": estimate.to(like.dtype)}
        output: Tensor = self.eps_model(x_t.to(like.dtype), t.float() / self.n_T, **extra)
        if output.shape != x_t.shape:
            raise InputError(
                f"the network returns {describe(output)} for a latent {list(x_t.shape)}; it must return the same shape"
            )
        return output.to(x_t.dtype)

    def _estimate(self, x_t: Tensor, t: Tensor, generator: Randomness) -> Tensor | None:
        """Return a first estimate of x_0 for self-conditioning, zero in rows that are not selected; None without it."""
        if not self.self_conditioning:
            return None
        shown = uniform((len(x_t),), generator, x_t.device) < self.self_conditioning
        with torch.no_grad():
            first = self.diffusion.x0_from(self.prediction, self._output(x_t, t, None), x_t, t)
        return torch.where(shown.reshape(-1, *[1] * (x_t.dim() - 1)), first, 0.0)

    def _first_step_loss(self, mu: Tensor | None, x_1: Tensor, output: Tensor) -> Tensor:
        if mu is None or mu.shape != x_1.shape:
            raise InputError(f"mu is {describe(mu)}, and compat: dmlp needs float {list(x_1.shape)}, as the latent has")
        beta = self.beta_t[1].to(x_1.dtype)
        x_0 = (x_1 - beta.sqrt() * output) / (1 - beta).sqrt()
        return (1 - beta) / beta * self._row_means(mu.to(x_1), x_0)

    def _row_means(self, target: Tensor, output: Tensor) -> Tensor:
        errors = self.criterion(target, output)
        if errors.shape != target.shape:
            raise InputError(
                f"the criterion returns {describe(errors)}, not a loss for each element; use reduction='none'"
            )
        return errors.flatten(1).mean(1)

    def _times(self, x: Tensor, t: Tensor | None, generator: Randomness) -> Tensor:
        if t is None:
            return 1 + (uniform((len(x),), generator, x.device) * self.n_T).long()
        if not isinstance(t, Tensor) or t.dtype != torch.int64 or list(t.shape) != [len(x)]:
            raise InputError(f"t is {describe(t)}, and int64 [{len(x)}], a step from 1 to {self.n_T}, fits")
        if has_values(t) and bool(((t < 1) | (t > self.n_T)).any()):
            raise InputError(f"t goes from {int(t.min())} to {int(t.max())}, and steps from 1 to {self.n_T}")
        return t.to(x.device)

    def _checked(self, x: Tensor) -> Tensor:
        """Return x in float32 or wider; raise InputError for a shape that the network does not take."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
            raise InputError(f"the latent is {describe(x)}, and float [B, latent] fits")
        width = getattr(self.eps_model, "latent_dim", x.shape[-1])
        if x.shape[-1] != width:
            raise InputError(f"the latent is {x.shape[-1]} wide, and the network was built for {width}")
        return x.to(torch.promote_types(x.dtype, torch.float32))


def _latent_dim(network: nn.Module) -> int:
    if not isinstance(getattr(network, "latent_dim", None), int):
        raise InputError(f"{type(network).__name__} has no latent_dim; wrap it: SelfConditioned(network, latent_dim)")
    return cast(int, network.latent_dim)
