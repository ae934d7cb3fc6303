"""What a discrete diffusion model is put together from: processes, schedules and objectives, by name.

Each is a type of its keys in a file and a builder that imports the mathematics. A new one is one registration. What fits
what is said here, where it is registered, and nowhere else; no torch is imported to check a file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from yaml_config.registry import Registry
from yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    from diffusion.diffusion_process import DiffusionProcess
    from diffusion.graph import Graph
    from diffusion.losses import Objective
    from diffusion.noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class ProcessEntry:
    """A forward process; `samplers` fit it, the first is its default. `build(config, num_tokens)` gives a Graph."""

    config_type: type[StrictModel]
    build: "Callable[[Any, int], Graph]"
    samplers: tuple[str, ...]


@dataclass(frozen=True)
class ScheduleEntry:
    """A noise schedule."""

    config_type: type[StrictModel]
    build: "Callable[[Any], NoiseSchedule]"


@dataclass(frozen=True)
class ObjectiveEntry:
    """A training objective; `processes` are those that it fits, `tells_time` whether its networks are told sigma."""

    config_type: type[StrictModel]
    build: "Callable[[Any, DiffusionProcess], Objective]"
    processes: tuple[str, ...]
    tells_time: bool


PROCESSES: Registry[ProcessEntry] = Registry("process", "model_factory.processes")
SCHEDULES: Registry[ScheduleEntry] = Registry("schedule", "model_factory.schedules")
OBJECTIVES: Registry[ObjectiveEntry] = Registry("objective", "model_factory.objectives")


class AbsorbingConfig(StrictModel):
    """Tokens turn into a mask and stay masked (Austin et al. 2021, Lou et al. 2024)."""

    type: Literal["absorbing"] = "absorbing"


class UniformConfig(StrictModel):
    """Tokens turn into uniformly drawn ones."""

    type: Literal["uniform"] = "uniform"


Epsilon = Annotated[float, Field(ge=0, le=0.5)]
Sigma = Annotated[float, Field(ge=0, le=50)]


class LogLinearConfig(StrictModel):
    """alpha(t) = 1 - (1 - eps) t: as many masks as t says."""

    type: Literal["loglinear"] = "loglinear"
    eps: Epsilon = 1e-3
    """alpha at t = 1."""


class CosineConfig(StrictModel):
    """alpha(t) = eps + (1 - eps) cos(pi t / 2)."""

    type: Literal["cosine"] = "cosine"
    eps: Epsilon = 1e-3
    """alpha at t = 1."""


class GeometricConfig(StrictModel):
    """sigma(t) = sigma_min^(1 - t) sigma_max^t."""

    type: Literal["geometric"] = "geometric"
    sigma_min: Annotated[float, Field(gt=0, le=50)] = 1e-4
    """Noise at t = 0."""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 20.0
    """Noise at t = 1."""

    def violations(self) -> Iterator[Violation]:
        """Noise grows."""
        yield from _grows(self.sigma_min, self.sigma_max)


class LinearConfig(StrictModel):
    """sigma(t) = sigma_min + t (sigma_max - sigma_min)."""

    type: Literal["linear"] = "linear"
    sigma_min: Sigma = 0.0
    """Noise at t = 0."""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 10.0
    """Noise at t = 1."""

    def violations(self) -> Iterator[Violation]:
        """Noise grows."""
        yield from _grows(self.sigma_min, self.sigma_max)


def _grows(sigma_min: float, sigma_max: float) -> Iterator[Violation]:
    if sigma_min >= sigma_max:
        message = f"sigma_max {sigma_max:g} must be above sigma_min {sigma_min:g}"
        yield Violation(message, ("sigma_max",), (("sigma_min",),))


class SeddConfig(StrictModel):
    """Score entropy (Lou et al. 2024): the network gives log-ratios of probabilities."""

    type: Literal["sedd"] = "sedd"
    scale_by_sigma: bool | None = None
    """Shift outputs by the noise level; None: under absorbing noise only, as published."""


class MdlmConfig(StrictModel):
    """Masked diffusion (Sahoo et al. 2024): cross-entropy at masked tokens, weighted to be a bound."""

    type: Literal["mdlm"] = "mdlm"


class UdlmConfig(StrictModel):
    """Uniform diffusion (Schiff et al. 2024): the bound of a network that gives the law of the clean token."""

    type: Literal["udlm"] = "udlm"


def _absorbing(config: AbsorbingConfig, num_tokens: int) -> "Graph":
    from diffusion.graph import AbsorbingGraph

    return AbsorbingGraph(num_tokens)


def _uniform(config: UniformConfig, num_tokens: int) -> "Graph":
    from diffusion.graph import UniformGraph

    return UniformGraph(num_tokens)


def _schedule(config: Any) -> "NoiseSchedule":
    from diffusion import noise_schedule

    kinds = {
        "loglinear": noise_schedule.LogLinearNoise,
        "cosine": noise_schedule.CosineNoise,
        "geometric": noise_schedule.GeometricNoise,
        "linear": noise_schedule.LinearNoise,
    }
    built: NoiseSchedule = kinds[config.type](**config.model_dump(exclude={"type"}))
    return built


def _sedd(config: SeddConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.losses import ScoreEntropyLoss
    from diffusion.parameterisation import ScoreParameterisation

    return ScoreEntropyLoss(process, ScoreParameterisation(process.graph, config.scale_by_sigma))


def _mdlm(config: MdlmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.losses import SubsLoss

    return SubsLoss(process)


def _udlm(config: UdlmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.losses import UdlmLoss

    return UdlmLoss(process)


_ANY = ("ancestral", "euler", "analytic", "predictor_corrector")
_MASKS = ("ancestral_cache", "confidence", "entropy_bounded", "remasking")
PROCESSES.add("absorbing", ProcessEntry(AbsorbingConfig, _absorbing, ("first_hitting", *_ANY, *_MASKS)))
PROCESSES.add("uniform", ProcessEntry(UniformConfig, _uniform, _ANY))
for _type in (LogLinearConfig, GeometricConfig, CosineConfig, LinearConfig):
    SCHEDULES.add(_type.model_fields["type"].default, ScheduleEntry(_type, _schedule))
OBJECTIVES.add("sedd", ObjectiveEntry(SeddConfig, _sedd, ("absorbing", "uniform"), tells_time=True))
OBJECTIVES.add("mdlm", ObjectiveEntry(MdlmConfig, _mdlm, ("absorbing",), tells_time=False))
OBJECTIVES.add("udlm", ObjectiveEntry(UdlmConfig, _udlm, ("uniform",), tells_time=True))


def combinations() -> Iterator[tuple[str, str, str, str]]:
    """Every valid (process, schedule, objective, sampler)."""
    for objective in OBJECTIVES:
        for process in OBJECTIVES.get(objective).processes:
            for schedule in SCHEDULES:
                for sampler in PROCESSES.get(process).samplers:
                    yield process, schedule, objective, sampler
