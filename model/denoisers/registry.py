"""Registry of backbones, the networks of diffusion models: built in, or a user's own in one file.

    @register_backbone("my-transformer")
    def build(config, vocab_size): ...        # gives an nn.Module

`vocab_size` is the process's `dim` (the mask counts as a token). `config` is a `BackboneView` of the backbone section.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from model.denoisers.config_types import BackboneConfig
from yaml_config.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from model.denoisers.view import BackboneView

Builder = TypeVar("Builder", bound=Callable[..., Any])


@dataclass(frozen=True)
class BackboneEntry:
    """What is known of one backbone: the type of its section, the builder, whether it can go without sigma, and blocks."""

    config_type: type[BackboneConfig]
    build: "Callable[[BackboneView, int], nn.Module]"
    sigma_optional: bool = False
    takes_blocks: bool = False


BACKBONES: Registry[BackboneEntry] = Registry("backbone", "model_factory.backbones")


def register_backbone(
    name: str, *, config: type[BaseModel] | None = None, sigma_optional: bool = False, takes_blocks: bool = False
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config, vocab_size) -> nn.Module` under `name`.

    `config` is a pydantic type of the section's keys; unknown keys are then errors of the file. Without one, any keys are
    taken. With `sigma_optional` the network is not told sigma where the objective does without it and the file does not
    say otherwise. With `takes_blocks` its `forward` has `blocks`, a `model.denoisers.blocks.Blocks`, which bd3lm asks for.
    Raises ValueError when the name is taken.
    """

    def register(build: Builder) -> Builder:
        BACKBONES.add(name, BackboneEntry(_section_type(name, config), build, sigma_optional, takes_blocks))
        return build

    return register


def _section_type(name: str, config: type[BaseModel] | None) -> type[BackboneConfig]:
    """The type of a section: the user's own keys, beside `type` and `device`, as strictly as all others."""
    if config is None:
        open_type = type("OpenBackboneConfig", (BackboneConfig,), {"model_config": ConfigDict(extra="allow")})
        return create_model("OpenBackboneConfig", __base__=open_type, type=(str, name))
    if issubclass(config, BackboneConfig):
        return config
    bases = (config, BackboneConfig)  # BackboneConfig's settings come last, and win
    section = type(config.__name__, bases, {"__module__": config.__module__, "__doc__": config.__doc__})
    return create_model(config.__name__, __base__=section, type=(str, name))
