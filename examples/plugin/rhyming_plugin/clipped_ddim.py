"""Latent sampler `clipped_ddim`: DDIM without noise, from an estimate of the latent that is clipped, as Ho et al. 2020 clip."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_latent_sampler


class ClippedDDIMConfig(StrictModel):
    """Keys of `sampler: {type: clipped_ddim, ...}`."""

    limit: Annotated[float, Field(gt=0, le=100)] = 3.0
    """Largest absolute value of a coordinate of the estimate. [1]"""


@register_latent_sampler("clipped_ddim", config=ClippedDDIMConfig)
def step(config: Any, diffusion: Any, x_t: Any, x_0: Any, t: int, s: int, draw: Any, variance: Any) -> Any:
    """Take the step from time t to s of x_t [B, size], whose estimate of the latent is x_0 [B, size]."""
    return diffusion.ddim_step(x_t, x_0.clamp(-config.limit, config.limit), t, s, 0.0, None)
