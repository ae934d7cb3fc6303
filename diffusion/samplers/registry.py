"""Samplers by name. A new one is a class under `@register_sampler`."""

from difflib import get_close_matches
from typing import TypeVar

from diffusion.denoiser import Denoiser
from diffusion.diffusion_process import DiffusionProcess
from diffusion.errors import DiffusionInputError, SettingError
from diffusion.forward_process import Graph
from diffusion.samplers.base import Sampler

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


def create_sampler(name: str, process: DiffusionProcess, denoiser: Denoiser, steps: int) -> Sampler:
    """The sampler of that name; raises UnknownSamplerError and SettingError."""
    if name not in SAMPLERS:
        near = get_close_matches(str(name), SAMPLERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UnknownSamplerError("sampler", repr(name) + hint, "one of " + ", ".join(sorted(SAMPLERS)))
    if name not in samplers_for(process.graph):
        fitting = f"an absorbing process; here {', '.join(samplers_for(process.graph))} fit"
        raise SettingError("sampler", f"{name} for {type(process.graph).__name__}", fitting)
    return SAMPLERS[name](process, denoiser, steps)
