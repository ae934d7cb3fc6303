"""Samplers, from the prior back to clean tokens; `SAMPLERS` has each by name, with what it fits and its accuracy."""

from diffusion.categorical import sample_categorical
from diffusion.samplers.base import Proposal, Sampler
from diffusion.samplers.registry import (
    SAMPLERS,
    UnknownSamplerError,
    create_sampler,
    default_sampler,
    register_sampler,
    samplers_for,
)
from diffusion.samplers.time_stepping import AnalyticSampler, AncestralSampler, EulerSampler
from diffusion.samplers.unmasking import CachedAncestralSampler, ConfidenceSampler, FirstHittingSampler

__all__ = [
    "SAMPLERS",
    "AnalyticSampler",
    "AncestralSampler",
    "CachedAncestralSampler",
    "ConfidenceSampler",
    "EulerSampler",
    "FirstHittingSampler",
    "Proposal",
    "Sampler",
    "UnknownSamplerError",
    "create_sampler",
    "default_sampler",
    "register_sampler",
    "sample_categorical",
    "samplers_for",
]
