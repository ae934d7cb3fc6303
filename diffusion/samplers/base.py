"""What samplers have in common, and their registry. A step is a proposal, which is mathematics, and a draw from it.

A proposal is a function of the state, so that certificates can follow the exact law of a sampler over all sequences.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from diffusion.categorical import invert_distribution
from diffusion.errors import DiffusionInputError, SettingError, check_count
from diffusion.processes.diffusion_process import DiffusionProcess
from diffusion.processes.forward_process import Graph, leave_or_stay
from diffusion.randomness import RowGenerators
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.state import SamplerState

Accuracy = Literal["exact", "convergent", "neither"]


@dataclass(frozen=True)
class Proposal:
    """The law of the next tokens, independent between places: whether a token changes, and into what.

    Fields:
        move: [B, L] probability of a change; target: [B, L, dim] weights, not normalised, of what it changes to.
    The two are drawn apart so that rare changes and rare tokens each keep float64's relative precision.
    """

    move: Tensor
    target: Tensor

    @classmethod
    def from_weights(cls, weights: Tensor, tokens: Tensor) -> "Proposal":
        """The proposal of weights [B, L, dim] for the next token, the present one among them."""
        return cls(*leave_or_stay(weights, tokens))

    def draw(self, tokens: Tensor, frozen: Tensor, generators: RowGenerators) -> Tensor:
        """Next tokens [B, L]; frozen ones are kept."""
        uniforms = generators.rand(2, tokens.shape[1])
        moved = (uniforms[:, 0] < self.move) & ~frozen
        tokens = tokens.clone()
        tokens[moved] = invert_distribution(self.target[moved], uniforms[:, 1][moved])
        return tokens

    def probabilities(self, tokens: Tensor, frozen: Tensor | None = None) -> Tensor:
        """The law itself, [B, L, dim], rows summing to one."""
        move = self.move if frozen is None else self.move.masked_fill(frozen, 0.0)
        total = self.target.sum(-1, keepdim=True)
        law = move[..., None] * torch.where(total > 0, self.target / total, 0.0)
        stay = torch.zeros_like(law).scatter(-1, tokens[..., None], 1 - move[..., None])
        return law + stay


class Sampler(ABC):
    """A sampler over an explicit state; subclasses say what they propose.

    Class attributes:
        name: as written in a file.
        accuracy: with the true law of the clean tokens, is the law of the samples right ("exact"), right in the limit
            of many steps ("convergent"), or "neither".
        absorbing_only: fits the absorbing process alone.
    Arguments:
        steps: number of steps from t = 1 to t = 0; samplers that count their own ignore it.
    A sampler's own settings follow as keywords with defaults. Raises SettingError for a process that does not fit, or fewer than one step.
    """

    name: ClassVar[str]
    accuracy: ClassVar[Accuracy]
    absorbing_only: ClassVar[bool] = False
    summary: ClassVar[str]

    def __init__(self, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> None:
        if self.absorbing_only and not process.graph.absorbing:
            raise SettingError("sampler", f"{self.name} for {type(process.graph).__name__}", "an absorbing process")
        self.process, self.denoiser, self.steps = process, denoiser, check_count("steps", steps)

    def begin(self, state: SamplerState) -> SamplerState:
        """The state with what the sampler keeps between steps."""
        return state

    def finished(self, state: SamplerState) -> bool:
        """Whether the state stands at t = 0."""
        return state.step >= self.steps

    @abstractmethod
    def propose(self, state: SamplerState) -> Proposal:
        """The law of the next tokens."""

    def step(self, state: SamplerState) -> SamplerState:
        """One step back in time, with a network call for each row."""
        tokens = self.propose(state).draw(state.tokens, state.frozen, state.generators)
        return self.advance(state, tokens, torch.ones_like(state.network_calls))

    def advance(self, state: SamplerState, tokens: Tensor, evaluated: Tensor) -> SamplerState:
        """The state one grid step on; `evaluated` [B] counts the evaluations of each row."""
        return replace(
            state,
            tokens=tokens,
            t=torch.full_like(state.t, self.time(state.step + 1)),
            step=state.step + 1,
            network_calls=state.network_calls + evaluated.to(torch.int64) * self.denoiser.calls,
        )

    def time(self, step: int) -> float:
        """Time after so many steps, on an even grid from 1 to 0."""
        return 1.0 - step / self.steps

    def levels(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Noise levels [B] now and after this step; the last step removes all noise, also a schedule's sigma(0)."""
        sigma = self.process.schedule.sigma(state.t)
        if state.step + 1 >= self.steps:
            return sigma, torch.zeros_like(sigma)
        return sigma, self.process.schedule.sigma(torch.full_like(state.t, self.time(state.step + 1)))


SAMPLERS: dict[str, type[Sampler]] = {}

SamplerClass = TypeVar("SamplerClass", bound=type[Sampler])


class UnknownSamplerError(DiffusionInputError):
    """A name that no sampler has."""


def register_sampler(sampler: SamplerClass) -> SamplerClass:
    """Register a sampler class under its `name`; raises SettingError when the name is taken."""
    if sampler.name in SAMPLERS:
        raise SettingError("name", repr(sampler.name), "a name that no sampler has yet")
    SAMPLERS[sampler.name] = sampler
    return sampler


def samplers_for(graph: Graph) -> list[str]:
    """Names of the samplers that fit a process."""
    return [name for name, sampler in SAMPLERS.items() if graph.absorbing or not sampler.absorbing_only]


def default_sampler(graph: Graph) -> str:
    """First-hitting, which is exact, for the absorbing process; ancestral for the others."""
    return "first_hitting" if graph.absorbing else "ancestral"


def default_settings(sampler: type[Sampler]) -> dict[str, Any]:
    """A sampler's own settings with their defaults: the keywords of its constructor."""
    parameters = signature(sampler).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is Parameter.KEYWORD_ONLY}


SamplerChoice = str | Mapping[str, Any]
"""A sampler's name, or a mapping of `type`, its name, and its settings."""


def create_sampler(sampler: SamplerChoice, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> Sampler:
    """The sampler of a name, or of a mapping such as {"type": "entropy_bounded", "gamma": 0.5}.

    Raises UnknownSamplerError, and SettingError for a process or settings that do not fit.
    """
    settings = dict(sampler) if isinstance(sampler, Mapping) else {}
    name = settings.pop("type", None) if isinstance(sampler, Mapping) else sampler
    if name not in SAMPLERS:
        raise UnknownSamplerError(
            "sampler", repr(name) + _hint(name, SAMPLERS), "one of " + ", ".join(sorted(SAMPLERS))
        )
    if name not in samplers_for(process.graph):
        fitting = f"an absorbing process; here {', '.join(samplers_for(process.graph))} fit"
        raise SettingError("sampler", f"{name} for {type(process.graph).__name__}", fitting)
    known = default_settings(SAMPLERS[name])
    for key in settings:
        if key not in known:
            fitting = f"settings of {name}: {', '.join(known)}" if known else f"no settings: {name} has none"
            raise SettingError("sampler", repr(key) + _hint(key, known), fitting)
    return SAMPLERS[name](process, denoiser, steps, **settings)


def _hint(word: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(word), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
