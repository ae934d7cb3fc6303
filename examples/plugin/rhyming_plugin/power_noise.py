"""Noise schedule `power`: alpha(t) = 1 - (1 - eps) t^power, the probability that a token is untouched at time t."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_schedule


class PowerConfig(StrictModel):
    """Keys of `schedule: {type: power, ...}`."""

    power: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Exponent of t: 1 is the built-in loglinear, a higher one adds noise later. [1]"""
    eps: Annotated[float, Field(gt=0, le=0.5)] = 1e-3
    """alpha at t = 1. [probability]"""


@register_schedule("power", config=PowerConfig)
def build(config: Any) -> Any:
    """Build the schedule from alpha, 1 - alpha, -d alpha / dt and the inverse of sigma = -log alpha."""
    import torch

    from model_factory import AlphaSchedule

    eps, power = config.eps, config.power

    class PowerNoise(AlphaSchedule):
        def _alpha(self, t: Any) -> Any:
            return (1 - t**power) + eps * t**power

        def _lost(self, t: Any) -> Any:
            return (1 - eps) * t**power

        def _slope(self, t: Any) -> Any:
            return (1 - eps) * power * t ** (power - 1)

        def _invert(self, sigma: Any) -> Any:
            return (-torch.expm1(-sigma) / (1 - eps)) ** (1 / power)

    return PowerNoise()
