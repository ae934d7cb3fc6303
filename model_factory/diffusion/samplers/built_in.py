"""Built-in samplers: their settings in a file, and builders that import torch.

This module registers them in `model_factory.diffusion.registry`, which imports it when a name is looked up. Defaults are repeated in
the samplers' constructors; a test compares the two.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from model_factory.diffusion.registry import PlainConfig, register_sampler
from model_factory.yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
    from model_factory.diffusion.samplers.base import Sampler
    from model_factory.diffusion.samplers.denoiser import Denoiser

Share = Annotated[float, Field(ge=0, le=1)]


@register_sampler(
    "analytic", accuracy="convergent", summary="Tweedie's formula: the exact distribution of each token alone"
)
def _analytic(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import AnalyticSampler

    return AnalyticSampler(process, denoiser, steps)


@register_sampler("euler", accuracy="convergent", summary="Euler steps of the reverse rates")
def _euler(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import EulerSampler

    return EulerSampler(process, denoiser, steps)


@register_sampler(
    "ancestral",
    accuracy="convergent",
    summary="the posterior of each token alone, from the distribution of the clean token",
)
def _ancestral(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import AncestralSampler

    return AncestralSampler(process, denoiser, steps)


@register_sampler(
    "ancestral_cache",
    absorbing_only=True,
    accuracy="convergent",
    summary="ancestral, with network calls only for rows that change",
)
def _ancestral_cache(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import CachedAncestralSampler

    return CachedAncestralSampler(process, denoiser, steps)


@register_sampler(
    "first_hitting", absorbing_only=True, accuracy="exact", summary="one token per call, at its drawn time"
)
def _first_hitting(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import FirstHittingSampler

    return FirstHittingSampler(process, denoiser, steps)


@register_sampler(
    "confidence",
    absorbing_only=True,
    accuracy="convergent",
    summary="the most confident tokens first, several per call",
)
def _confidence(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.standard import ConfidenceSampler

    return ConfidenceSampler(process, denoiser, steps)


class EntropyBoundedConfig(StrictModel):
    """Unmask as many tokens per call as are nearly independent (Ben-Hamu et al. 2025)."""

    type: Literal["entropy_bounded"] = "entropy_bounded"
    gamma: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Bound on the KL divergence due to tokens drawn independently in one call; 0: exact. [nats]"""


@register_sampler(
    "entropy_bounded",
    config=EntropyBoundedConfig,
    absorbing_only=True,
    summary="as many tokens per call as are nearly independent; exact at gamma = 0",
)
def _entropy_bounded(
    config: EntropyBoundedConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int
) -> "Sampler":
    from model_factory.diffusion.samplers.entropy_bounded import EntropyBoundedSampler

    return EntropyBoundedSampler(process, denoiser, steps, **config.model_dump(exclude={"type"}))


class RemaskingConfig(StrictModel):
    """Ancestral steps in which tokens are masked again (ReMDM, Wang et al. 2025)."""

    type: Literal["remasking"] = "remasking"
    eta_cap: Share = 0.01
    """Upper bound on the probability per step that a token is masked again; 0: never. [probability]"""
    eta_rescale: Share = 1.0
    """Fraction of the largest probability that keeps each token's marginal distribution. [share]"""


@register_sampler(
    "remasking",
    config=RemaskingConfig,
    absorbing_only=True,
    accuracy="convergent",
    summary="ancestral, with tokens masked again and redrawn",
)
def _remasking(config: RemaskingConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.remasking import RemaskingSampler

    return RemaskingSampler(process, denoiser, steps, **config.model_dump(exclude={"type"}))


class PredictorCorrectorConfig(StrictModel):
    """Ancestral steps in which tokens are drawn clean and noised again (Psi-samplers, Deschenaux et al. 2026)."""

    type: Literal["predictor_corrector"] = "predictor_corrector"
    kappa: Share = 0.95
    """Probability that a token takes the ancestral step; 1: no correction. [probability]"""
    t_on: Share = 0.5
    """Time up to which steps correct. [time]"""
    t_off: Share = 0.1
    """Time from which on steps no longer correct; 0: correct to the end, which converges. [time]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a violation if t_off is above t_on."""
        if self.t_off > self.t_on:
            message = f"t_off {self.t_off:g} must not be above t_on {self.t_on:g}: time runs from 1 to 0"
            yield Violation(message, ("t_off",), (("t_on",),))


@register_sampler(
    "predictor_corrector",
    config=PredictorCorrectorConfig,
    summary="ancestral, with tokens drawn clean and noised again",
)
def _predictor_corrector(
    config: PredictorCorrectorConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int
) -> "Sampler":
    from model_factory.diffusion.samplers.predictor_corrector import PredictorCorrectorSampler

    return PredictorCorrectorSampler(process, denoiser, steps, **config.model_dump(exclude={"type"}))


class SemiAutoregressiveConfig(StrictModel):
    """Unmask blocks from left to right, positions of a block in a random order (Arriola et al. 2025)."""

    type: Literal["semi_autoregressive"] = "semi_autoregressive"
    block_size: Annotated[int, Field(gt=0, le=1_048_576)] = 16
    """Tokens of a block, for networks that attend to the whole sequence; bd3lm's block_size overrides it. [tokens]"""


@register_sampler(
    "semi_autoregressive",
    config=SemiAutoregressiveConfig,
    absorbing_only=True,
    blockwise=True,
    accuracy="convergent",
    summary="blocks from left to right, a random order inside; exact at one token per call",
)
def _semi_autoregressive(
    config: SemiAutoregressiveConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int
) -> "Sampler":
    from model_factory.diffusion.samplers.semi_autoregressive import SemiAutoregressiveSampler

    return SemiAutoregressiveSampler(process, denoiser, steps, **config.model_dump(exclude={"type"}))


@register_sampler(
    "insertion",
    absorbing_only=True,
    accuracy="convergent",
    summary="flexmdm: Euler steps, which insert at most one mask in a gap",
    variable_length=True,
)
def _insertion(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.insertion import InsertionSampler

    return InsertionSampler(process, denoiser, steps)


@register_sampler(
    "thinned_insertion",
    absorbing_only=True,
    accuracy="convergent",
    summary="flexmdm: draws the size of each gap and inserts a share of it; lengths are closer",
    variable_length=True,
)
def _thinned_insertion(config: PlainConfig, process: "DiffusionProcess", denoiser: "Denoiser", steps: int) -> "Sampler":
    from model_factory.diffusion.samplers.insertion import ThinnedInsertionSampler

    return ThinnedInsertionSampler(process, denoiser, steps)
