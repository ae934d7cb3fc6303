"""Registry of the samplers' settings in a file; asking it imports `model.sampler_types`, which fills it."""

from dataclasses import dataclass

from yaml_config.registry import Registry
from yaml_config.strict_model import StrictModel


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler's settings: a type with the field `type`, its name."""

    config_type: type[StrictModel]


SAMPLER_SETTINGS: Registry[SamplerEntry] = Registry("sampler", "model_factory.samplers", "model.sampler_types")
