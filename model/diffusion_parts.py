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
    from diffusion.objectives.losses import Objective
    from diffusion.processes.diffusion_process import DiffusionProcess
    from diffusion.processes.graph import Graph
    from diffusion.processes.noise_schedule import NoiseSchedule


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
    """A training objective; `processes` are those that it fits, `tells_time` whether its networks are told sigma.

    `samplers` are those of its networks where they are not the process's: a network of blocks sees no others behind it.
    """

    config_type: type[StrictModel]
    build: "Callable[[Any, DiffusionProcess], Objective]"
    processes: tuple[str, ...]
    tells_time: bool
    samplers: tuple[str, ...] | None = None


PROCESSES: Registry[ProcessEntry] = Registry("process", "model_factory.processes")
SCHEDULES: Registry[ScheduleEntry] = Registry("schedule", "model_factory.schedules")
OBJECTIVES: Registry[ObjectiveEntry] = Registry("objective", "model_factory.objectives")


class AbsorbingConfig(StrictModel):
    """Tokens turn into a mask and stay masked (Austin et al. 2021, Lou et al. 2024)."""

    type: Literal["absorbing"] = "absorbing"


class HybridConfig(StrictModel):
    """Tokens turn into a mask or into uniformly drawn ones, in a mixture that changes on the way (GIDD).

    von Ruette et al. 2025. The schedule sets the pace: at the time when it has taken half of the tokens from another
    process, a share p_uniform of them is wrong here.
    """

    type: Literal["hybrid"] = "hybrid"
    p_uniform: Annotated[float, Field(gt=0, le=0.99)] = 0.1
    """Share of tokens that are replaced by uniform ones half-way. [share]"""
    gamma: Annotated[float, Field(gt=0, le=2)] = 1.0
    """How sharply the wrong tokens come and go; 1 as published. [1]"""


class UniformConfig(StrictModel):
    """Tokens turn into uniformly drawn ones."""

    type: Literal["uniform"] = "uniform"


Epsilon = Annotated[float, Field(ge=0, le=0.5)]
Sigma = Annotated[float, Field(ge=0, le=50)]


class LogLinearConfig(StrictModel):
    """alpha(t) = 1 - (1 - eps) t: as many masks as t says."""

    type: Literal["loglinear"] = "loglinear"
    eps: Epsilon = 1e-3
    """alpha at t = 1. [probability]"""


class CosineConfig(StrictModel):
    """alpha(t) = eps + (1 - eps) cos(pi t / 2)."""

    type: Literal["cosine"] = "cosine"
    eps: Epsilon = 1e-3
    """alpha at t = 1. [probability]"""


class GeometricConfig(StrictModel):
    """sigma(t) = sigma_min^(1 - t) sigma_max^t."""

    type: Literal["geometric"] = "geometric"
    sigma_min: Annotated[float, Field(gt=0, le=50)] = 1e-4
    """Noise at t = 0. [1]"""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 20.0
    """Noise at t = 1. [1]"""

    def violations(self) -> Iterator[Violation]:
        """Noise grows."""
        yield from _grows(self.sigma_min, self.sigma_max)


class LinearConfig(StrictModel):
    """sigma(t) = sigma_min + t (sigma_max - sigma_min)."""

    type: Literal["linear"] = "linear"
    sigma_min: Sigma = 0.0
    """Noise at t = 0. [1]"""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 10.0
    """Noise at t = 1. [1]"""

    def violations(self) -> Iterator[Violation]:
        """Noise grows."""
        yield from _grows(self.sigma_min, self.sigma_max)


class DiscreteConfig(StrictModel):
    """alpha from a table of num_steps steps (Austin et al. 2021, D3PM), straight in between."""

    type: Literal["discrete"] = "discrete"
    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] = 1000
    """Number of steps T. [steps]"""
    curve: Literal["even", "cosine", "linear", "quadratic"] = "even"
    """even: 1 - i / T, D3PM's for masks; cosine: Nichol and Dhariwal's; linear, quadratic: of beta, between the two below."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Chance to lose a token in the first step, of linear and quadratic; None: 0.1 / num_steps. [probability]"""
    beta_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same in the last step; None: 20 / num_steps, which leaves almost nothing at t = 1. [probability]"""

    def violations(self) -> Iterator[Violation]:
        """Only two of the curves have a beta."""
        for key in ("beta_start", "beta_end"):
            if getattr(self, key) is not None and self.curve in ("even", "cosine"):
                yield Violation(
                    f"curve {self.curve} has no {key}", (key,), (("curve",),), "curve: linear, or leave it out"
                )


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


class D3pmConfig(StrictModel):
    """The bound in discrete time (Austin et al. 2021), in the steps of `schedule: {type: discrete}` or in its own."""

    type: Literal["d3pm"] = "d3pm"
    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """Number of steps; None: the schedule's, which is then a discrete one. [steps]"""


class GiddConfig(StrictModel):
    """The bound of a network that gives the law of the clean token, under any noise (von Ruette et al. 2025)."""

    type: Literal["gidd"] = "gidd"


class Bd3lmConfig(StrictModel):
    """Masked diffusion inside blocks that are written one after another (Arriola et al. 2025)."""

    type: Literal["bd3lm"] = "bd3lm"
    block_size: Annotated[int, Field(gt=0, le=1_048_576)] = 16
    """Tokens of a block: 1 is an autoregressive model, the whole length is mdlm. [tokens]"""


def _absorbing(config: AbsorbingConfig, num_tokens: int) -> "Graph":
    from diffusion.processes.graph import AbsorbingGraph

    return AbsorbingGraph(num_tokens)


def _hybrid(config: HybridConfig, num_tokens: int) -> "Graph":
    from diffusion.processes.hybrid import HybridGraph

    return HybridGraph(num_tokens, config.p_uniform, config.gamma)


def _uniform(config: UniformConfig, num_tokens: int) -> "Graph":
    from diffusion.processes.graph import UniformGraph

    return UniformGraph(num_tokens)


def _schedule(config: Any) -> "NoiseSchedule":
    from diffusion.objectives.discrete_time import DiscreteNoise
    from diffusion.processes import noise_schedule

    kinds = {
        "discrete": DiscreteNoise,
        "loglinear": noise_schedule.LogLinearNoise,
        "cosine": noise_schedule.CosineNoise,
        "geometric": noise_schedule.GeometricNoise,
        "linear": noise_schedule.LinearNoise,
    }
    built: NoiseSchedule = kinds[config.type](**config.model_dump(exclude={"type"}))
    return built


def _sedd(config: SeddConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.objectives.losses import ScoreEntropyLoss
    from diffusion.objectives.parameterisation import ScoreParameterisation

    return ScoreEntropyLoss(process, ScoreParameterisation(process.graph, config.scale_by_sigma))


def _mdlm(config: MdlmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.objectives.losses import SubsLoss

    return SubsLoss(process)


def _udlm(config: UdlmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.objectives.losses import UdlmLoss

    return UdlmLoss(process)


def _d3pm(config: D3pmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.objectives.discrete_time import discrete_loss

    return discrete_loss(process, config.num_steps)


def _gidd(config: GiddConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.processes.hybrid import GiddLoss

    return GiddLoss(process)


def _bd3lm(config: Bd3lmConfig, process: "DiffusionProcess") -> "Objective":
    from diffusion.objectives.block import BlockSubsLoss

    return BlockSubsLoss(process, config.block_size)


_ANY = ("ancestral", "euler", "analytic", "predictor_corrector")
_MASKS = ("ancestral_cache", "confidence", "entropy_bounded", "remasking", "semi_autoregressive")
PROCESSES.add("absorbing", ProcessEntry(AbsorbingConfig, _absorbing, ("first_hitting", *_ANY, *_MASKS)))
PROCESSES.add("uniform", ProcessEntry(UniformConfig, _uniform, _ANY))
PROCESSES.add("hybrid", ProcessEntry(HybridConfig, _hybrid, _ANY))
for _type in (LogLinearConfig, GeometricConfig, CosineConfig, LinearConfig, DiscreteConfig):
    SCHEDULES.add(_type.model_fields["type"].default, ScheduleEntry(_type, _schedule))
_EVERY = ("absorbing", "uniform", "hybrid")
OBJECTIVES.add("sedd", ObjectiveEntry(SeddConfig, _sedd, _EVERY, tells_time=True))
OBJECTIVES.add("mdlm", ObjectiveEntry(MdlmConfig, _mdlm, ("absorbing",), tells_time=False))
OBJECTIVES.add("udlm", ObjectiveEntry(UdlmConfig, _udlm, ("uniform",), tells_time=True))
OBJECTIVES.add("d3pm", ObjectiveEntry(D3pmConfig, _d3pm, _EVERY, tells_time=True))
OBJECTIVES.add("gidd", ObjectiveEntry(GiddConfig, _gidd, _EVERY, tells_time=True))
OBJECTIVES.add(
    "bd3lm",
    ObjectiveEntry(Bd3lmConfig, _bd3lm, ("absorbing",), tells_time=False, samplers=("semi_autoregressive",)),
)


def samplers_of(process: str, objective: str) -> tuple[str, ...]:
    """Samplers of an objective's networks under a process; the first is the default."""
    return OBJECTIVES.get(objective).samplers or PROCESSES.get(process).samplers


def combinations() -> Iterator[tuple[str, str, str, str]]:
    """Every valid (process, schedule, objective, sampler)."""
    for objective in OBJECTIVES:
        for process in OBJECTIVES.get(objective).processes:
            for schedule in SCHEDULES:
                for sampler in samplers_of(process, objective):
                    yield process, schedule, objective, sampler
