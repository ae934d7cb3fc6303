"""Built-in processes and noise schedules: their keys in a file, and builders that import torch.

This module registers them in `model_factory.diffusion.registry`, which imports it when a name is looked up.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from model_factory.diffusion.registry import register_process, register_schedule
from model_factory.yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    from model_factory.diffusion.processes.forward_process import Graph
    from model_factory.diffusion.processes.noise_schedule import NoiseSchedule

Epsilon = Annotated[float, Field(ge=0, le=0.5)]
Sigma = Annotated[float, Field(ge=0, le=50)]


class AbsorbingConfig(StrictModel):
    """Noise that replaces tokens by a mask, which stays (Austin et al. 2021, Lou et al. 2024)."""

    type: Literal["absorbing"] = "absorbing"


@register_process("absorbing", config=AbsorbingConfig)
def _absorbing(config: AbsorbingConfig, num_tokens: int) -> "Graph":
    from model_factory.diffusion.processes.graph import AbsorbingGraph

    return AbsorbingGraph(num_tokens)


class UniformConfig(StrictModel):
    """Noise that replaces tokens by uniformly drawn ones."""

    type: Literal["uniform"] = "uniform"


@register_process("uniform", config=UniformConfig)
def _uniform(config: UniformConfig, num_tokens: int) -> "Graph":
    from model_factory.diffusion.processes.graph import UniformGraph

    return UniformGraph(num_tokens)


class HybridConfig(StrictModel):
    """Noise that replaces tokens by a mask or by uniformly drawn ones, in a mixture that changes with time (GIDD).

    von Ruette et al. 2025. At the time at which alpha of the schedule is 1/2, a share p_uniform of all tokens is replaced
    by uniform ones.
    """

    type: Literal["hybrid"] = "hybrid"
    p_uniform: Annotated[float, Field(gt=0, le=0.99)] = 0.1
    """Share of tokens replaced by uniform ones at alpha = 1/2 of the schedule. [share]"""
    gamma: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sharpness in time of the uniform noise; 1 as published. [1]"""


@register_process("hybrid", config=HybridConfig)
def _hybrid(config: HybridConfig, num_tokens: int) -> "Graph":
    from model_factory.diffusion.processes.hybrid import HybridGraph

    return HybridGraph(num_tokens, config.p_uniform, config.gamma)


class LogLinearConfig(StrictModel):
    """Schedule alpha(t) = 1 - (1 - eps) t: the share of masks is t."""

    type: Literal["loglinear"] = "loglinear"
    eps: Epsilon = 1e-3
    """alpha at t = 1. [probability]"""


@register_schedule("loglinear", config=LogLinearConfig)
def _loglinear(config: LogLinearConfig) -> "NoiseSchedule":
    from model_factory.diffusion.processes.noise_schedule import LogLinearNoise

    return LogLinearNoise(**config.model_dump(exclude={"type"}))


class GeometricConfig(StrictModel):
    """Schedule sigma(t) = sigma_min^(1 - t) sigma_max^t."""

    type: Literal["geometric"] = "geometric"
    sigma_min: Annotated[float, Field(gt=0, le=50)] = 1e-4
    """Noise at t = 0. [1]"""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 20.0
    """Noise at t = 1. [1]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a violation unless sigma_min is below sigma_max."""
        yield from _grows(self.sigma_min, self.sigma_max)


@register_schedule("geometric", config=GeometricConfig)
def _geometric(config: GeometricConfig) -> "NoiseSchedule":
    from model_factory.diffusion.processes.noise_schedule import GeometricNoise

    return GeometricNoise(**config.model_dump(exclude={"type"}))


class CosineConfig(StrictModel):
    """Schedule alpha(t) = eps + (1 - eps) cos(pi t / 2)."""

    type: Literal["cosine"] = "cosine"
    eps: Epsilon = 1e-3
    """alpha at t = 1. [probability]"""


@register_schedule("cosine", config=CosineConfig)
def _cosine(config: CosineConfig) -> "NoiseSchedule":
    from model_factory.diffusion.processes.noise_schedule import CosineNoise

    return CosineNoise(**config.model_dump(exclude={"type"}))


class LinearConfig(StrictModel):
    """Schedule sigma(t) = sigma_min + t (sigma_max - sigma_min)."""

    type: Literal["linear"] = "linear"
    sigma_min: Sigma = 0.0
    """Noise at t = 0. [1]"""
    sigma_max: Annotated[float, Field(gt=0, le=50)] = 10.0
    """Noise at t = 1. [1]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a violation unless sigma_min is below sigma_max."""
        yield from _grows(self.sigma_min, self.sigma_max)


@register_schedule("linear", config=LinearConfig)
def _linear(config: LinearConfig) -> "NoiseSchedule":
    from model_factory.diffusion.processes.noise_schedule import LinearNoise

    return LinearNoise(**config.model_dump(exclude={"type"}))


class DiscreteConfig(StrictModel):
    """Schedule with alpha from a table of num_steps steps (Austin et al. 2021, D3PM), linearly interpolated."""

    type: Literal["discrete"] = "discrete"
    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] = 1000
    """Number of steps T. [steps]"""
    curve: Literal["even", "cosine", "linear", "quadratic"] = "even"
    """even: 1 - i / T, D3PM's for masks; cosine: Nichol and Dhariwal's; linear, quadratic: beta from beta_start to beta_end."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of noising a token in the first step, for linear and quadratic; None: 0.1 / num_steps. [probability]"""
    beta_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of noising a token in the last step; None: 20 / num_steps, which makes alpha(1) tiny. [probability]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a violation for a beta that the curve does not use."""
        for key in ("beta_start", "beta_end"):
            if getattr(self, key) is not None and self.curve in ("even", "cosine"):
                yield Violation(
                    f"curve {self.curve} has no {key}", (key,), (("curve",),), "curve: linear, or leave it out"
                )


@register_schedule("discrete", config=DiscreteConfig, discrete=True)
def _discrete(config: DiscreteConfig) -> "NoiseSchedule":
    from model_factory.diffusion.objectives.discrete_time import DiscreteNoise

    return DiscreteNoise(**config.model_dump(exclude={"type"}))


def _grows(sigma_min: float, sigma_max: float) -> Iterator[Violation]:
    if sigma_min >= sigma_max:
        message = f"sigma_max {sigma_max:g} must be above sigma_min {sigma_min:g}"
        yield Violation(message, ("sigma_max",), (("sigma_min",),))
