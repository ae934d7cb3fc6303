"""Built-in training objectives: their keys in a file, and builders that import torch.

This module registers them in `model_factory.diffusion.registry`, which imports it when a name is looked up.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from model_factory.diffusion.registry import register_objective
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
    from model_factory.diffusion.objectives.losses import Objective
    from model_factory.diffusion.processes.diffusion_process import DiffusionProcess


class SeddConfig(StrictModel):
    """Score entropy (Lou et al. 2024): the network predicts log-ratios of probabilities."""

    type: Literal["sedd"] = "sedd"
    scale_by_sigma: bool | None = None
    """Shift outputs by the noise level; None: for absorbing noise only, as published."""


@register_objective("sedd", config=SeddConfig)
def _sedd(config: SeddConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import ScoreEntropyLoss
    from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation

    return ScoreEntropyLoss(process, ScoreParameterisation(process.graph, config.scale_by_sigma))


class MdlmConfig(StrictModel):
    """Masked diffusion (Sahoo et al. 2024): cross-entropy at masked tokens, weighted to be a bound."""

    type: Literal["mdlm"] = "mdlm"


@register_objective("mdlm", config=MdlmConfig, noises=("absorbing",), time_conditioning=False)
def _mdlm(config: MdlmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import SubsLoss

    return SubsLoss(process)


class UdlmConfig(StrictModel):
    """Uniform diffusion (Schiff et al. 2024): the bound of a network that predicts the clean token."""

    type: Literal["udlm"] = "udlm"


@register_objective("udlm", config=UdlmConfig, noises=("uniform",))
def _udlm(config: UdlmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.losses import UdlmLoss

    return UdlmLoss(process)


class D3pmConfig(StrictModel):
    """The discrete-time bound (Austin et al. 2021), with the num_steps of `schedule: {type: discrete}` or its own."""

    type: Literal["d3pm"] = "d3pm"
    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """Number of steps; None: the schedule's, which must then be discrete. [steps]"""


@register_objective("d3pm", config=D3pmConfig, discrete_time=True)
def _d3pm(config: D3pmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.discrete_time import discrete_loss

    return discrete_loss(process, config.num_steps)


class GiddConfig(StrictModel):
    """The bound of a network that predicts the clean token, under any noise (von Ruette et al. 2025)."""

    type: Literal["gidd"] = "gidd"


@register_objective("gidd", config=GiddConfig)
def _gidd(config: GiddConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.processes.hybrid import GiddLoss

    return GiddLoss(process)


class Bd3lmConfig(StrictModel):
    """Masked diffusion inside blocks, which are generated one after another (Arriola et al. 2025)."""

    type: Literal["bd3lm"] = "bd3lm"
    block_size: Annotated[int, Field(gt=0, le=1_048_576)] = 16
    """Tokens of a block: 1 is an autoregressive model, the whole length is mdlm. [tokens]"""


@register_objective("bd3lm", config=Bd3lmConfig, noises=("absorbing",), time_conditioning=False, blockwise=True)
def _bd3lm(config: Bd3lmConfig, process: "DiffusionProcess") -> "Objective":
    from model_factory.diffusion.objectives.block import BlockSubsLoss

    return BlockSubsLoss(process, config.block_size)


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
