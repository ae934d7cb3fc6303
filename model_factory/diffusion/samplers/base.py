"""Base class of samplers, and creation by name. A step is a proposal, a distribution, and a draw from it.

A proposal is a function of the state, so that tests can propagate the exact distribution of a sampler over all
sequences.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.errors import DiffusionInputError, SettingError, check_count
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph, leave_or_stay
from model_factory.diffusion.randomness import RowGenerators, upload
from model_factory.diffusion.registry import SAMPLERS, default_sampler_name, fitting_samplers
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.yaml_config.registry import Registry, closest
from model_factory.yaml_config.strict_model import DEFER_RELATIONS, StrictModel

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Proposal:
    """Distribution of the next tokens, independent between positions: probability of a change, and its target.

    Fields:
        move: [B, L] probability of a change; target: [B, L, dim] weights, not normalised, of the new token.
    The two are drawn separately, so that rare changes and rare tokens each keep float64's relative precision.
    """

    move: Tensor
    target: Tensor

    @classmethod
    def from_weights(cls, weights: Tensor, tokens: Tensor) -> "Proposal":
        """Create the proposal of weights [B, L, dim] for the next token, including the current one."""
        return cls(*leave_or_stay(weights, tokens))

    def draw(self, tokens: Tensor, frozen: Tensor, generators: RowGenerators) -> Tensor:
        """Draw the next tokens [B, L]; frozen ones are kept."""
        uniforms = upload(generators.rand(2, tokens.shape[1]), tokens.device)
        moved = (uniforms[:, 0] < self.move) & ~frozen
        if tokens.device.type != "cpu":  # which positions move is known there alone, so all are drawn
            return torch.where(moved, invert_distribution(self.target, uniforms[:, 1], moved), tokens)
        tokens = tokens.clone()
        tokens[moved] = invert_distribution(self.target[moved], uniforms[:, 1][moved])
        return tokens

    def probabilities(self, tokens: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Return the probabilities of the next tokens, [B, L, dim], rows summing to one."""
        move = self.move if frozen is None else self.move.masked_fill(frozen, 0.0)
        total = self.target.sum(-1, keepdim=True)
        leave = move[..., None] * torch.where(total > 0, self.target / total, 0.0)
        stay = torch.zeros_like(leave).scatter(-1, tokens[..., None], 1 - move[..., None])
        return leave + stay


class Sampler(ABC):
    """Sampler over an explicit state; subclasses define `propose`.

    Class attributes:
        absorbing_only: True if it fits an absorbing process only.
    Arguments:
        steps: number of steps from t = 1 to t = 0; samplers that determine their own number ignore it.
    Settings of subclasses follow as keywords with defaults. Raises SettingError for a process that does not fit, and for
    fewer than one step.
    """

    absorbing_only: ClassVar[bool] = False

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> None:
        if self.absorbing_only and not process.graph.absorbing:
            raise SettingError(
                "sampler", f"{type(self).__name__} for {type(process.graph).__name__}", "an absorbing process"
            )
        self.process, self.denoiser, self.steps = process, denoiser, check_count("steps", steps)

    def begin(self, state: SamplerState) -> SamplerState:
        """Return the state with the sampler's cache."""
        return state

    def is_finished(self, state: SamplerState) -> bool:
        """Return True if the state is at t = 0."""
        return state.step >= self.steps

    @abstractmethod
    def propose(self, state: SamplerState) -> Proposal:
        """Return the distribution of the next tokens."""

    def step(self, state: SamplerState) -> SamplerState:
        """Take one step back in time, with a network call for each row."""
        tokens = self.propose(state).draw(state.tokens, state.frozen, state.generators)
        return self.advance(state, tokens, torch.ones_like(state.network_calls))

    def advance(self, state: SamplerState, tokens: Tensor, evaluated: Tensor) -> SamplerState:
        """Return the state after one grid step; `evaluated` [B] on the CPU counts the evaluations of each row."""
        return replace(
            state,
            tokens=tokens,
            t=torch.full_like(state.t, self.time(state.step + 1)),
            step=state.step + 1,
            network_calls=state.network_calls + evaluated.to(torch.int64) * self.denoiser.calls,
        )

    def time(self, step: int) -> float:
        """Return the time after `step` steps, on an even grid from 1 to 0."""
        return 1.0 - step / self.steps

    def levels(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Return noise levels [B] before and after this step; the last step removes all noise, also sigma(0).

        They are on the device of the tokens.
        """
        sigma, sigma_next = self.host_levels(state)
        return upload(sigma, state.tokens.device), upload(sigma_next, state.tokens.device)

    def host_levels(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Return the levels [B] on the CPU."""
        sigma = self.process.schedule.sigma(state.t)
        if state.step + 1 >= self.steps:
            return sigma, torch.zeros_like(sigma)
        return sigma, self.process.schedule.sigma(torch.full_like(state.t, self.time(state.step + 1)))


class UnknownSamplerError(DiffusionInputError):
    """The name of a sampler that is not registered."""


def samplers_for(graph: Graph) -> list[str]:
    """Return the names of the samplers that fit a process."""
    return fitting_samplers(absorbing=graph.absorbing)


def default_sampler(graph: Graph) -> str:
    """Return the name of a process's default sampler: first_hitting if it is absorbing, else ancestral."""
    return default_sampler_name(absorbing=graph.absorbing)


SamplerChoice = str | Mapping[str, Any]
"""A sampler's name, or a mapping of `type`, its name, and its settings."""


def create_sampler(sampler: SamplerChoice, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> Sampler:
    """Create a sampler from its name, or from a mapping such as {"type": "entropy_bounded", "gamma": 0.5}.

    Raises UnknownSamplerError, and SettingError for a process or settings that do not fit.
    """
    name, entry, settings = find_sampler(SAMPLERS, sampler)
    variable_length = denoiser.parameterisation.variable_length
    if entry.variable_length != variable_length:
        named = "inserts tokens" if variable_length else "inserts no tokens"
        names = fitting_samplers(absorbing=process.graph.absorbing, variable_length=variable_length)
        raise SettingError("sampler", f"{name} for a network that {named}", ", ".join(names))
    if not entry.fits(absorbing=process.graph.absorbing, variable_length=variable_length):
        fitting = f"an absorbing process; here {', '.join(samplers_for(process.graph))} fit"
        raise SettingError("sampler", f"{name} for {type(process.graph).__name__}", fitting)
    return entry.build(check_settings(name, entry.config_type, settings), process, denoiser, steps)


def find_sampler(registry: Registry[Entry], sampler: SamplerChoice) -> tuple[str, Entry, dict[str, Any]]:
    """Return a sampler's name, its entry in `registry`, and its settings as given; raise UnknownSamplerError."""
    settings = dict(sampler) if isinstance(sampler, Mapping) else {}
    name = settings.pop("type", None) if isinstance(sampler, Mapping) else sampler
    if not isinstance(name, str) or name not in registry:
        raise UnknownSamplerError(
            "sampler", repr(name) + _hint(name, registry), "one of " + ", ".join(sorted(registry))
        )
    return name, registry.get(name), settings


def check_settings(name: str, config_type: type[StrictModel], settings: dict[str, Any]) -> StrictModel:
    """Return the config of a sampler's settings; raise SettingError for the first that does not fit."""
    known = [key for key in config_type.model_fields if key != "type"]
    for key in settings:
        if key not in known:
            fitting = f"settings of {name}: {', '.join(known)}" if known else f"no settings: {name} has none"
            raise SettingError("sampler", repr(key) + _hint(key, known), fitting)
    try:
        config = config_type.model_validate({"type": name, **settings}, context={DEFER_RELATIONS: True})
    except ValidationError as error:
        wrong = error.errors()[0]
        argument = ".".join(str(key) for key in wrong["loc"])
        raise SettingError(argument, repr(wrong["input"]), wrong["msg"].removeprefix("Input should be ")) from None
    for violation in config.violations():
        argument = ".".join(str(key) for key in violation.at)
        raise SettingError(argument, repr(settings.get(argument)), f"settings that fit together: {violation.message}")
    return config


def _hint(word: object, known: Iterable[str]) -> str:
    """Return a suggestion of the nearest known word, or an empty string."""
    near = closest(str(word), list(known))
    return f" (did you mean {near!r}?)" if near else ""
