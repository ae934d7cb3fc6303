"""Sampler `late_steps`: ancestral steps on a grid of times that is finer near t = 0, where tokens get their final values."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_sampler


class LateStepsConfig(StrictModel):
    """Keys of `sampler: {type: late_steps, ...}`."""

    power: Annotated[float, Field(ge=1, le=8)] = 2.0
    """The time after step i of n is (1 - i / n)^power; 1 is the built-in ancestral. [1]"""


@register_sampler(
    "late_steps", config=LateStepsConfig, accuracy="convergent", summary="ancestral, with shorter steps near t = 0"
)
def build(config: Any, process: Any, denoiser: Any, steps: int) -> Any:
    """Build the sampler."""
    from model_factory import AncestralSampler

    class LateSteps(AncestralSampler):
        def time(self, step: int) -> float:
            return float((1.0 - step / self.steps) ** config.power)

    return LateSteps(process, denoiser, steps)
