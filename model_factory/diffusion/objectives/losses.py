"""Objectives: upper bounds of the NLL -log p(x_0), per token, in three parts.

    diffusion       the integrand of the bound at one drawn time t; its mean over t in (0, 1] is the integral
    prior           KL divergence of q(x_1 | x_0) from the prior: information on x_0 left at t = 1
    reconstruction  the step from noise at t = 0 to clean tokens, for schedules with sigma(0) > 0

No network can bring their sum below the entropy of the data; the diffusion part alone can be lower. `Objective.parts`
corrupts and weights with the same process, without which it would not be a bound.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, check_time, check_tokens
from model_factory.diffusion.objectives.noise_draws import CountDraw, Noised, NoiseDraw, TimeDraw
from model_factory.diffusion.objectives.parameterisation import (
    Parameterisation,
    ScoreParameterisation,
    X0Parameterisation,
)
from model_factory.diffusion.objectives.row_losses import Rows, RowTerms
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import per_token
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph, log_expm1
from model_factory.diffusion.processes.noise_schedule import TINY_ALPHA
from model_factory.diffusion.randomness import Randomness

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Network: (x_t [B, L], sigma [B] or [B, L]) -> output [B, L, dim]."""


@dataclass(frozen=True)
class LossParts:
    """Parts of the bound in nats per token, [B, L] float64, not reduced.

    `weight` [B] or [B, L] is the weight of the terms of `diffusion` relative to `loss_weighting: uniform`; None: the
    objective's weight at the times. `loss` is what training minimises, where it is not the diffusion part.
    """

    diffusion: Tensor
    prior: Tensor
    reconstruction: Tensor
    weight: Tensor | None = None
    loss: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Sum of the three parts, [B, L]."""
        return self.diffusion + self.prior + self.reconstruction

    def named(self) -> dict[str, Tensor]:
        """Return the parts [B, L] by the names under which they are reported."""
        return {"diffusion": self.diffusion, "prior": self.prior, "reconstruction": self.reconstruction}

    def without(self, frozen: Tensor) -> "LossParts":
        """Return the parts with zeros at frozen positions, bool [B, L]."""
        kept = {name: getattr(self, name).masked_fill(frozen, 0.0) for name in ("diffusion", "prior", "reconstruction")}
        return replace(self, **kept)


class Objective(ABC):
    """Bound for one process; `parameterisation` interprets the network's output, `noise_draw` draws the noise.

    A class with `has_count_form` has the count form under absorbing noise (`objectives.noise_draws`): its diffusion part is
    `weight(t)` times a sum over masks. A class with `has_row_terms` has its diffusion part as losses of single rows of logits
    (`objectives.row_losses`). A subclass inherits neither, as it may compute another loss.
    """

    has_count_form: ClassVar[bool] = False
    has_row_terms: ClassVar[bool] = False

    def __init__(self, process: DiffusionProcess, parameterisation: Parameterisation) -> None:
        self.process, self.parameterisation = process, parameterisation
        self.graph, self.schedule = process.graph, process.schedule
        self.noise_draw: NoiseDraw = TimeDraw()

    def by_counts(self) -> "Objective | None":
        """Return a copy that draws numbers of masks instead of times, None for an objective without the count form.

        It is the bound of the same network for noise from alpha = 1 to alpha = 0, at whatever eps the network was trained.
        """
        if not (self.graph.absorbing and vars(type(self)).get("has_count_form")):
            return None
        return self.drawn_by(self.count_draw())

    def drawn_by(self, noise_draw: NoiseDraw) -> "Objective":
        """Return a copy that draws its noise in another way."""
        found = copy.copy(self)
        found.noise_draw = noise_draw
        return found

    def trained_by_counts(self) -> "Objective":
        """Return `by_counts`, for training; raise SettingError without a count form, or unless alpha goes from 1 to 0.

        Training and samplers then have the noise that the bound is of.
        """
        found = self.by_counts()
        if found is None:
            raise SettingError(
                "times", "count", "uniform: the count form is of built-in objectives under absorbing noise"
            )
        if not found.noise_draw.has_ends and (self.needs_limit or self.needs_start):
            alpha = f"alpha from {float(self.schedule.alpha(0.0)):g} to {float(self.schedule.alpha(1.0)):g}"
            raise SettingError(
                "schedule", alpha, "alpha from 1 to 0 with times: count, such as {type: loglinear, eps: 0}"
            )
        return found

    def count_draw(self) -> NoiseDraw:
        """Return the way to draw numbers of masks, for objectives with the count form."""
        return CountDraw()

    @abstractmethod
    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return the diffusion part [B, L] of tokens x_t noised at times t in (0, 1], [B] or [B, L].

        Raises TokenError, TimeError and ShapeError.
        """

    def extra_outputs(self, length: int | None) -> int:
        """Return how many outputs a network has at a token beside the process's dim; `length` is that of rows."""
        return 0

    def weight(self, t: Tensor) -> Tensor:
        """Return -alpha' / (1 - alpha) = sigma' / (exp(sigma) - 1) of the shape of t, the weight of the bound at t.

        It is the rate at which a noised token becomes clean in reverse time.
        """
        return self.schedule.rate(t) / torch.expm1(self.schedule.sigma(t))

    def times(self, t: Tensor, x_0: Tensor) -> Tensor:
        """Return the times [B] or [B, L] at which x_0 [B, L] is noised, from the times of its rows; raise TimeError."""
        return check_time("t", t)

    def draw(self, x_0: Tensor, t: Tensor, generator: Randomness, frozen: Tensor, *, training: bool = False) -> Noised:
        """Draw the noise of x_0 [B, L] from the times [B] or [B, L]; no network is called.

        Without `training` it is drawn such that the loss is a bound. Raises TokenError, TimeError and ShapeError.
        """
        chosen = self.noise_draw if training or self.noise_draw.is_bound else TimeDraw()
        return chosen.draw(self.process, x_0, self.times(t, x_0), generator, frozen)

    def row_terms(self, noised: Noised, x_0: Tensor, frozen: Tensor) -> RowTerms | None:
        """Return the diffusion part as losses of rows of logits, at tokens x_0 int [B, L] that are not frozen, bool [B, L].

        None without `has_row_terms`, or if the process or the parameterisation has no such form. No network is called.
        """
        if not vars(type(self)).get("has_row_terms"):
            return None
        free = ~frozen & self.graph.is_masked(noised.x_t) if self.graph.absorbing else ~frozen
        rows, sigma = Rows(free.flatten().nonzero()[:, 0], x_0.shape), self.schedule.sigma(noised.t)
        found = self.row_loss(rows, noised.x_t, x_0, sigma)
        if found is None:
            return None
        kind, scalars = found
        weight = self.weight(noised.t) if noised.weight is None else noised.weight
        even = (
            noised.even_weight if isinstance(noised.even_weight, Tensor) else torch.full_like(sigma, noised.even_weight)
        )
        if kind != "cross_entropy":  # score entropies are losses per unit of sigma
            weight, even = (factor * torch.expm1(sigma) for factor in (weight, even))
        return RowTerms(kind, scalars, rows.index, rows.at(weight), rows.at(even))

    @property
    def has_row_form(self) -> bool:
        """True if `row_terms` gives the diffusion part as losses of rows of logits."""
        token = torch.zeros((1, 1), dtype=torch.int64)
        noised = Noised(token, torch.full((1,), 0.5, dtype=torch.float64))
        return self.row_terms(noised, token, torch.zeros_like(token, dtype=torch.bool)) is not None

    def row_loss(self, rows: Rows, x_t: Tensor, x_0: Tensor, sigma: Tensor) -> tuple[str, list[Tensor]] | None:
        """Return the name of the row loss and its scalars [K] at sigma [B] or [B, L]; None if there is no such form."""
        return None

    def predict(self, denoise: Denoise, x_t: Tensor, sigma: Tensor, x_0: Tensor) -> Tensor:
        """Call the network for noisy tokens, returning [B, L, dim]; some objectives also pass it clean tokens."""
        return denoise(x_t, sigma)

    def prior(self, x_0: Tensor, output: Tensor | None = None) -> Tensor:
        """Return the prior part [B, L]; if `needs_limit`, `output` is the network's at the all-masked sequence."""
        sigma = self.schedule.sigma(torch.ones(x_0.shape[0], dtype=torch.float64, device=x_0.device))
        if output is None:
            return self.graph.prior_part(x_0, sigma)
        limit = self.graph.sample_limit(x_0.shape, None, x_0.device)
        return self.graph.prior_part(x_0, sigma, self.parameterisation.log_x0(output, limit, sigma))

    def reconstruction(self, output: Tensor, x_start: Tensor, x_0: Tensor) -> Tensor:
        """Return -log p(x_0 | x_start) [B, L] of tokens x_start noised at sigma(0), from the network's output there."""
        sigma = self._sigma_at(0.0, x_0)
        log_x_0 = self.parameterisation.log_x0(output, x_start, sigma)
        log_x_0 = torch.log_softmax(log_x_0 + self.graph.transition_into(x_start, sigma).log(), -1)
        return -log_x_0.gather(-1, x_0[..., None])[..., 0]

    def training_prior(self, x_0: Tensor) -> Tensor:
        """Return the prior part [B, L] as far as it needs no network, as in training: zero if it needs one."""
        if self.noise_draw.has_ends and not self.needs_limit:
            return self.prior(x_0)
        return torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)

    @property
    def needs_limit(self) -> bool:
        """True if the prior part needs the network at the all-masked sequence, which is so if alpha(1) > 0."""
        return self.graph.absorbing and float(self.schedule.alpha(1.0)) > TINY_ALPHA

    @property
    def needs_start(self) -> bool:
        """True if there is a reconstruction part, which is so if sigma(0) > 0."""
        return float(self.schedule.sigma(0.0)) > 0

    def parts(
        self,
        denoise: Denoise,
        x_0: Tensor,
        t: Tensor,
        generator: Randomness = None,
        frozen: Tensor | None = None,
        *,
        ends: bool = True,
    ) -> LossParts:
        """Corrupt x_0, call the network, and return the parts of the bound, zero at frozen positions.

        Arguments:
            x_0: [B, L]; t: [B] or [B, L] in (0, 1]; frozen: bool [B, L], True at prompts and padding.
            ends: False skips the network's calls at t = 0 and t = 1; the parts that need them are then zero.
        Raises TokenError, TimeError and ShapeError.
        """
        frozen = torch.zeros_like(x_0, dtype=torch.bool) if frozen is None else frozen
        noised = self.draw(x_0, t, generator, frozen, training=not ends)
        clean = x_0.masked_fill(frozen, 0)  # padding may hold any id
        output = self.predict(denoise, noised.x_t, self.schedule.sigma(noised.t), x_0)
        diffusion = self.diffusion(output, self._data(noised.x_t, frozen), clean, noised.t)
        prior = reconstruction = torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)
        weight = None
        if noised.weight is not None:
            diffusion = diffusion * per_token(noised.weight / self.weight(noised.t), x_0)
            weight = noised.weight / noised.even_weight
        if not self.noise_draw.has_ends:
            return LossParts(diffusion, prior, reconstruction, weight).without(frozen)
        if ends and self.needs_start:
            sigma = self._sigma_at(0.0, x_0)
            x_start = self.process.corrupt_at(x_0, sigma, generator, frozen)
            start_output = self.predict(denoise, x_start, sigma, x_0)
            reconstruction = self.reconstruction(start_output, self._data(x_start, frozen), clean)
        if ends or not self.needs_limit:
            prior = self.prior(clean, self._limit_output(denoise, x_0, frozen) if self.needs_limit else None)
        return LossParts(diffusion, prior, reconstruction, weight).without(frozen)

    def _limit_output(self, denoise: Denoise, x_0: Tensor, frozen: Tensor) -> Tensor:
        limit = torch.where(frozen, x_0, self.graph.sample_limit(x_0.shape, None, x_0.device))
        return self.predict(denoise, limit, self._sigma_at(1.0, x_0), x_0)

    def _sigma_at(self, t: float, x_0: Tensor) -> Tensor:
        return self.schedule.sigma(torch.full(x_0.shape[:1], t, dtype=torch.float64, device=x_0.device))

    @staticmethod
    def _data(x_t: Tensor, frozen: Tensor) -> Tensor:
        return x_t.masked_fill(frozen, 0)


class ScoreEntropyLoss(Objective):
    """SEDD (Lou et al. 2024): the full score entropy times d sigma / dt, for any process."""

    has_count_form = has_row_terms = True

    def __init__(self, process: DiffusionProcess, parameterisation: Parameterisation | None = None) -> None:
        super().__init__(process, parameterisation or ScoreParameterisation(process.graph))

    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return sigma'(t) times the score entropy, [B, L]; raise TokenError, TimeError and ShapeError."""
        t = check_time("t", t)
        sigma = self.schedule.sigma(t)
        log_score = self.parameterisation.log_score(output, x_t, sigma)
        return per_token(self.schedule.rate(t), x_t) * self.graph.score_entropy(log_score, sigma, x_t, x_0)

    def row_loss(self, rows: Rows, x_t: Tensor, x_0: Tensor, sigma: Tensor) -> tuple[str, list[Tensor]] | None:
        """Return the score entropy of tokens x_t and x_0 int [B, L] as a row loss with its scalars [K]; None for other noise."""
        graph, reading, noisy, clean = self.graph, self.parameterisation, rows.at(x_t), rows.at(x_0)
        if type(reading) is X0Parameterisation:
            if type(graph) is AbsorbingGraph:
                return "cross_entropy", [clean]
            noise = graph.even_noise(sigma) if "even_noise" in vars(type(graph)) else None
            if noise is None:
                return None
            at_data, at_mask, rate_at_data, rate_at_mask = (rows.at(value.expand(sigma.shape)) for value in noise)
            is_data = noisy < graph.num_tokens
            odds, share = -rows.at(sigma) - at_data.log(), at_mask / at_data
            rate = torch.where(is_data, rate_at_data, rate_at_mask)
            return "mixture", [noisy, clean, rate, odds, torch.where(is_data, 0.0, -share.log()), share]
        if type(reading) is not ScoreParameterisation:
            return None
        shift = rows.at(reading.shift(sigma))
        if type(graph) is AbsorbingGraph:
            return "absorbing_score", [clean, shift, -log_expm1(rows.at(sigma))]
        if type(graph) is UniformGraph:
            return "uniform_score", [noisy, clean, shift, rows.at(graph.log_ratio(sigma))]
        return None


class UdlmLoss(ScoreEntropyLoss):
    """UDLM (Schiff et al. 2024): the bound of a network that predicts the clean token, under uniform noise.

    Their formula with x̄ = N alpha x + 1 - alpha is the score entropy at s_y = x̄θ_y / x̄θ_z, a_y = x̄_y / x̄_z (z = x_t,
    both sum to N / x̄_z). That form is computed here because it does not subtract numbers of the order of 1 / t. The
    graph sums it in the Rao-Blackwellised form.
    """

    has_row_terms = True

    def __init__(self, process: DiffusionProcess) -> None:
        if process.graph.absorbing:
            raise SettingError("process", "an absorbing process", "uniform noise; SubsLoss fits the absorbing one")
        super().__init__(process, X0Parameterisation(process.graph))


class SubsLoss(Objective):
    """MDLM (Sahoo et al. 2024): cross-entropy at masked positions, weighted by -alpha' / (1 - alpha)."""

    has_count_form = has_row_terms = True

    def __init__(self, process: DiffusionProcess, parameterisation: Parameterisation | None = None) -> None:
        if not process.graph.absorbing:
            raise SettingError("process", type(process.graph).__name__, "an absorbing process; UdlmLoss fits uniform")
        super().__init__(process, parameterisation or X0Parameterisation(process.graph))

    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return the weighted cross-entropy [B, L], zero at unmasked positions; raise TokenError, TimeError and ShapeError."""
        check_tokens("x_t", x_t, self.graph.dim)
        check_tokens("x_0", x_0, self.graph.num_tokens)
        t = check_time("t", t)
        masked = self.graph.is_masked(x_t)
        sigma = per_token(self.schedule.sigma(t), x_t).expand(x_t.shape)[masked]
        log_x_0 = self.parameterisation.log_x0(output[masked], x_t[masked], sigma)  # masked rows only, to save memory
        nll = -log_x_0.gather(-1, x_0[masked][:, None])[:, 0] * per_token(self.weight(t), x_t).expand(x_t.shape)[masked]
        return torch.zeros(x_t.shape, dtype=torch.float64, device=x_t.device).masked_scatter(masked, nll)

    def row_loss(self, rows: Rows, x_t: Tensor, x_0: Tensor, sigma: Tensor) -> tuple[str, list[Tensor]] | None:
        """Return the cross-entropy of tokens x_0 int [B, L] with its scalars [K]; None for another parameterisation."""
        return ("cross_entropy", [rows.at(x_0)]) if type(self.parameterisation) is X0Parameterisation else None
