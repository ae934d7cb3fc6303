"""Types of the samplers' settings in a file: `generation: {sampler: {type: entropy_bounded, gamma: 0.5}}`.

Defaults are those of the samplers' constructors in `diffusion`, which no check of a file imports; a test holds the two
together.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from model.diffusion_parts import PROCESSES
from model.sampler_registry import SAMPLER_SETTINGS, SamplerEntry
from yaml_config.strict_model import StrictModel, Violation

Share = Annotated[float, Field(ge=0, le=1)]


class EntropyBoundedConfig(StrictModel):
    """As many tokens a call as are nearly independent (Ben-Hamu et al. 2025)."""

    type: Literal["entropy_bounded"] = "entropy_bounded"
    gamma: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Bound in nats of what tokens of one call may say of each other; 0: exact. [nats]"""


class RemaskingConfig(StrictModel):
    """Ancestral steps in which tokens are masked again (ReMDM, Wang et al. 2025)."""

    type: Literal["remasking"] = "remasking"
    eta_cap: Share = 0.01
    """Highest probability of a step that a token is masked again; 0: never. [probability]"""
    eta_rescale: Share = 1.0
    """Share to take of the highest probability that keeps each token's law. [share]"""


class PredictorCorrectorConfig(StrictModel):
    """Ancestral steps in which tokens are drawn clean and noised anew (Psi-samplers, Deschenaux et al. 2026)."""

    type: Literal["predictor_corrector"] = "predictor_corrector"
    kappa: Share = 0.95
    """Probability that a token takes the ancestral step; 1: no correction. [probability]"""
    t_on: Share = 0.5
    """Time below which steps correct. [time]"""
    t_off: Share = 0.1
    """Time below which they no longer do; 0: to the end, which converges. [time]"""

    def violations(self) -> Iterator[Violation]:
        """Time runs from 1 to 0."""
        if self.t_off > self.t_on:
            message = f"t_off {self.t_off:g} must not be above t_on {self.t_on:g}, as time runs from 1 to 0"
            yield Violation(message, ("t_off",), (("t_on",),))


class SemiAutoregressiveConfig(StrictModel):
    """Blocks from left to right, places of a block in a random order (Arriola et al. 2025)."""

    type: Literal["semi_autoregressive"] = "semi_autoregressive"
    block_size: Annotated[int, Field(gt=0, le=1_048_576)] = 16
    """Tokens of a block, for networks that see the whole sequence; those of bd3lm have their own. [tokens]"""


class PlainConfig(StrictModel):
    """A sampler without settings."""

    type: str


_SETTINGS: dict[str, type[StrictModel]] = {
    "entropy_bounded": EntropyBoundedConfig,
    "remasking": RemaskingConfig,
    "predictor_corrector": PredictorCorrectorConfig,
    "semi_autoregressive": SemiAutoregressiveConfig,
}
for _process in PROCESSES:
    for _name in PROCESSES.get(_process).samplers:
        _SETTINGS.setdefault(_name, PlainConfig)
for _name, _type in _SETTINGS.items():
    SAMPLER_SETTINGS.add(_name, SamplerEntry(_type))
