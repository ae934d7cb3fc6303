"""Discrete diffusion models: the section of a file, the parts it names, and the module that it builds.

This package imports `model_factory.diffusion` and denoisers; the types import no torch.
"""
