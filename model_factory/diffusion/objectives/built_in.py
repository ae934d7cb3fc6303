"""Built-in training objectives: their keys in a file, and builders that import torch.

This module registers them in `model_factory.diffusion.registry`, which imports it when a name is looked up.
"""

from collections.abc import Iterator
from math import ceil, floor
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from model_factory.diffusion.registry import register_objective
from model_factory.yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    from model_factory.diffusion.objectives.losses import Objective
    from model_factory.diffusion.processes.diffusion_process import DiffusionProcess


Times = Literal["uniform", "count"]
_ROUNDING = 1e-9


def _draw_as(objective: "Objective", times: Times) -> "Objective":
    """Return the objective with its noise drawn as `times` says; raise SettingError where it cannot."""
    return objective if times == "uniform" else objective.trained_by_counts()


class SeddConfig(StrictModel):
    """Score entropy (Lou et al. 2024): the network predicts log-ratios of probabilities."""

    type: Literal["sedd"] = "sedd"
    times: Times = "uniform"
    """uniform, or count: draw the number of masks instead of a time, which trains on the bound without its weight 1 / t."""
    scale_by_sigma: bool | None = None
    """Shift outputs by the noise level; None: for absorbing noise only, as published."""


@register_objective("sedd", config=SeddConfig)
def _sedd(config: SeddConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import ScoreEntropyLoss
    from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation

    objective = ScoreEntropyLoss(process, ScoreParameterisation(process.graph, config.scale_by_sigma))
    return _draw_as(objective, config.times)


class MdlmConfig(StrictModel):
    """Masked diffusion (Sahoo et al. 2024): cross-entropy at masked tokens, weighted to be a bound."""

    type: Literal["mdlm"] = "mdlm"
    times: Times = "uniform"
    """uniform, or count: draw the number of masks instead of a time, as in sedd."""


@register_objective("mdlm", config=MdlmConfig, noises=("absorbing",), time_conditioning=False)
def _mdlm(config: MdlmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import SubsLoss

    return _draw_as(SubsLoss(process), config.times)


class UdlmConfig(StrictModel):
    """Uniform diffusion (Schiff et al. 2024): the bound of a network that predicts the clean token."""

    type: Literal["udlm"] = "udlm"
    times: Times = "uniform"
    """uniform; count is refused, as it needs masks."""


@register_objective("udlm", config=UdlmConfig, noises=("uniform",))
def _udlm(config: UdlmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import UdlmLoss

    return UdlmLoss(process)


class D3pmConfig(StrictModel):
    """The discrete-time bound (Austin et al. 2021), with the num_steps of `schedule: {type: discrete}` or its own."""

    type: Literal["d3pm"] = "d3pm"
    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """Number of steps; None: the schedule's, which must then be discrete. [steps]"""
    times: Times = "uniform"
    """uniform, or count: draw the number of masks instead of a step, with the weights of the steps."""


@register_objective("d3pm", config=D3pmConfig, discrete_time=True)
def _d3pm(config: D3pmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.discrete_time import discrete_loss

    return _draw_as(discrete_loss(process, config.num_steps), config.times)


class GiddConfig(StrictModel):
    """The bound of a network that predicts the clean token, under any noise (von Ruette et al. 2025)."""

    type: Literal["gidd"] = "gidd"
    times: Times = "uniform"
    """uniform, or count: draw the number of masks instead of a time, as in sedd."""


@register_objective("gidd", config=GiddConfig)
def _gidd(config: GiddConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.processes.hybrid import GiddLoss

    return _draw_as(GiddLoss(process), config.times)


Share = Annotated[float, Field(ge=0, le=1)]
ClipRange = Annotated[
    Annotated[Literal["auto"], Tag("name")] | Annotated[list[Share], Field(min_length=2, max_length=2), Tag("range")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "range"),
]


class ClipConfig(StrictModel):
    """Times and shares of masks of a block from an interval, as published; the training loss is then no bound."""

    clip: ClipRange
    """The interval, [low, high], or auto: that with the least variance of the loss, searched after each evaluation. [share]"""


BlockTimes = Annotated[
    Annotated[Times, Tag("name")] | Annotated[ClipConfig, Tag("clip")],
    Discriminator(lambda value: "clip" if isinstance(value, dict | StrictModel) else "name"),
]


class Bd3lmConfig(StrictModel):
    """Masked diffusion inside blocks, which are generated one after another (Arriola et al. 2025)."""

    type: Literal["bd3lm"] = "bd3lm"
    block_size: Annotated[int, Field(gt=0, le=1_048_576)] = 16
    """Tokens of a block: 1 is an autoregressive model, the whole length is mdlm. [tokens]"""
    times: BlockTimes = "uniform"
    """uniform; count: draw the number of masks of each block, as in sedd; or {clip: [low, high]}, which is no bound."""

    def violations(self) -> Iterator[Violation]:
        """Yield a violation for an interval that is empty, or that no number of masks of a block is in."""
        if not isinstance(self.times, ClipConfig) or self.times.clip == "auto":
            return
        at: tuple[str, ...] = ("times", "clip")
        low, high = self.times.clip
        if low > high or (low == high and low != 1):
            yield Violation(f"low {low:g} is not below high {high:g}", at, (), "clip: [0.3, 0.8]")
        elif ceil(low * self.block_size - _ROUNDING) > floor(high * self.block_size + _ROUNDING):
            message = f"no number of masks in a block of {self.block_size} tokens is a share from {low:g} to {high:g}"
            yield Violation(message, at, (("block_size",),), "give a wider interval, such as [0.3, 0.8]")


@register_objective("bd3lm", config=Bd3lmConfig, noises=("absorbing",), time_conditioning=False, blockwise=True)
def _bd3lm(config: Bd3lmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.block import BlockSubsLoss
    from model_factory.diffusion.objectives.clipped_draw import ClippedDraw, SearchedClipDraw

    objective = BlockSubsLoss(process, config.block_size)
    if not isinstance(config.times, ClipConfig):
        return _draw_as(objective, config.times)
    clip = config.times.clip
    objective.noise_draw = SearchedClipDraw(config.block_size) if clip == "auto" else ClippedDraw(*clip)
    return objective


class FlexMdmConfig(StrictModel):
    """Masked diffusion that also inserts tokens, so that it learns the lengths of texts (Kim et al. 2025)."""

    type: Literal["flexmdm"] = "flexmdm"
    gaps: Literal["counts", "expected"] = "counts"
    """Prediction of the tokens missing between two: counts (the distribution of 0 to sequence_length, which
    thinned_insertion draws from) or expected (their mean, one number, for long rows)."""


@register_objective("flexmdm", config=FlexMdmConfig, noises=("absorbing",), variable_length=True)
def _flexmdm(config: FlexMdmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.insertion import FlexMdmLoss

    return FlexMdmLoss(process, counts=config.gaps == "counts")
