"""Plugin of a custom process, schedule, objective and sampler, each with its own checked keys."""

from typing import Annotated, Any

from pydantic import Field

from model_factory.diffusion.registry import register_objective, register_process, register_sampler, register_schedule
from model_factory.yaml_config.strict_model import StrictModel


class SkewedConfig(StrictModel):
    """Keys of the process."""

    first: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of token 0 in the limit. [probability]"""


class PowerConfig(StrictModel):
    """Keys of the schedule."""

    eps: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3
    """alpha at t = 1. [probability]"""


class ScaledConfig(StrictModel):
    """Keys of the objective."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the bound. [1]"""


class LazyConfig(StrictModel):
    """Keys of the sampler."""

    patience: Annotated[int, Field(ge=1, le=9)] = 2
    """Steps for each step of ancestral. [steps]"""


@register_process("skewed", config=SkewedConfig)
def _skewed(config: Any, num_tokens: int) -> Any:
    import torch

    from model_factory.diffusion.processes.forward_process import Graph

    rest = (1 - config.first) / (num_tokens - 1)
    return Graph(num_tokens, torch.tensor([config.first] + [rest] * (num_tokens - 1)))


@register_schedule("power", config=PowerConfig)
def _power(config: Any) -> Any:
    from model_factory.diffusion.processes.noise_schedule import CosineNoise

    return CosineNoise(config.eps)


@register_objective("scaled", config=ScaledConfig, noises=("absorbing", "skewed"))
def _scaled(config: Any, process: Any) -> Any:
    from model_factory.diffusion.objectives.losses import ScoreEntropyLoss
    from model_factory.diffusion.objectives.parameterisation import X0Parameterisation

    return ScoreEntropyLoss(process, X0Parameterisation(process.graph))


@register_sampler("lazy", config=LazyConfig, accuracy="convergent", summary="ancestral, with more steps")
def _lazy(config: Any, process: Any, denoiser: Any, steps: int) -> Any:
    from model_factory.diffusion.samplers.standard import AncestralSampler

    return AncestralSampler(process, denoiser, steps * config.patience)
