"""Registries of what a latent diffusion model is put together from: encoders, decoders and denoisers, by name.

A denoiser of your own is one file, found when it is imported (`--plugin MODULE`) or through the entry point group
`model_factory.latent_denoisers`:

    @register_latent_denoiser("mine", config=MyConfig)    # a StrictModel with the field `type: Literal["mine"]`
    def build(config, latent_size, time_scale):           # gives an nn.Module, forward(x, t, z_sem=None)
        ...

x is [B, latent_size], t [B] in (0, 1], and `time_scale` is by what t is to be multiplied before it is embedded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from yaml_config.registry import Registry
from yaml_config.strict_model import StrictModel

Builder = TypeVar("Builder", bound=Callable[..., Any])


@dataclass(frozen=True)
class PartEntry:
    """The type of a part's section, and its builder `(config, latent_size, ...) -> nn.Module`."""

    config_type: type[StrictModel]
    build: Callable[..., Any]


LATENT_ENCODERS: Registry[PartEntry] = Registry("latent encoder", "model_factory.latent_encoders", "model.latent.parts")
LATENT_DECODERS: Registry[PartEntry] = Registry("latent decoder", "model_factory.latent_decoders", "model.latent.parts")
LATENT_DENOISERS: Registry[PartEntry] = Registry(
    "latent denoiser", "model_factory.latent_denoisers", "model.latent.parts"
)


def register_latent_encoder(name: str, *, config: type[StrictModel]) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size) -> LatentEncoder`; raises ValueError when the name is taken."""
    return _register(LATENT_ENCODERS, name, config)


def register_latent_decoder(name: str, *, config: type[StrictModel]) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size) -> LatentDecoder`; raises ValueError when the name is taken."""
    return _register(LATENT_DECODERS, name, config)


def register_latent_denoiser(name: str, *, config: type[StrictModel]) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size, time_scale) -> nn.Module`; raises ValueError when the name is taken."""
    return _register(LATENT_DENOISERS, name, config)


def _register(registry: Registry[PartEntry], name: str, config: type[StrictModel]) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        registry.add(name, PartEntry(config, build))
        return build

    return register
