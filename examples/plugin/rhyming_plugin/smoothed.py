"""Objective `smoothed`: score entropy of the network's distribution mixed with the uniform one.

The bound is that of the mixture, which samplers use as well, so it stays a bound on the NLL of the samples' distribution.
No clean token has probability zero, so that one surprising token cannot dominate the loss of a small data set.
"""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_objective


class SmoothedConfig(StrictModel):
    """Keys of `objective: {type: smoothed, ...}`."""

    smoothing: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the uniform distribution in the mixture. [probability]"""


@register_objective("smoothed", config=SmoothedConfig, noises=("zipf", "uniform"))
def build(config: Any, process: Any) -> Any:
    """Build the objective for a process without a mask."""
    import torch

    from model_factory import ScoreEntropyLoss, X0Parameterisation

    class Smoothed(X0Parameterisation):
        def log_x0(self, output: Any, x_t: Any, sigma: Any) -> Any:
            x_0 = super().log_x0(output, x_t, sigma).exp()
            return torch.log((1 - config.smoothing) * x_0 + config.smoothing / x_0.shape[-1])

    return ScoreEntropyLoss(process, Smoothed(process.graph))
