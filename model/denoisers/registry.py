"""Registry of backbones, the networks of diffusion models: built in, or custom in one file.

    @register_backbone("my-transformer")
    def build(config, vocab_size): ...        # returns an nn.Module

`vocab_size` is the process's `dim` (the mask counts as a token). `config` is a `BackboneView` of the backbone section.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from model.denoisers.config_types import BackboneConfig
from model_factory.yaml_config.from_registry import section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import Violation

if TYPE_CHECKING:
    from torch import nn

    from model.denoisers.view import BackboneView

Builder = TypeVar("Builder", bound=Callable[..., Any])


class BackboneEntry(NamedTuple):
    """A backbone: the type of its section, its builder, if sigma is optional, and if it takes blocks and documents.

    `token_levels` is True if sigma may be [B, L], False if it is [B] only, and None if that is found in the first call.
    `fixed_vocabulary` is True if a pretrained model sets its states, so that none can be added.
    """

    config_type: type[BackboneConfig]
    build: "Callable[[BackboneView, int], nn.Module]"
    sigma_optional: bool = False
    takes_blocks: bool = False
    takes_documents: bool = False
    token_levels: bool | None = None
    fixed_vocabulary: bool = False


BACKBONES: Registry[BackboneEntry] = Registry("backbone", "model_factory.backbones")


def register_backbone(
    name: str,
    *,
    config: type[BaseModel] | None = None,
    sigma_optional: bool = False,
    takes_blocks: bool = False,
    takes_documents: bool = False,
    token_levels: bool | None = None,
    fixed_vocabulary: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config, vocab_size) -> nn.Module` under `name`.

    `config` is a pydantic type of the section's keys; unknown keys are then errors of the file. Without it, any keys
    are accepted. With `sigma_optional` the network gets no sigma if the objective does not need it and the file does
    not set `time_conditioning`. With `takes_blocks` its `forward` accepts `blocks`, a `model.denoisers.blocks.Blocks`,
    which bd3lm needs; with `takes_documents` it accepts `documents`, int [B, L], and isolates the documents of packed
    rows, which `document_ids: true` needs. `token_levels` says whether sigma may be [B, L], a level for each token that the
    other tokens see, which prompts and responses need unless the noise is absorbing; by default the network is tried when
    that is needed. A network that cannot be built with the states that flexmdm adds to the vocabulary has a
    `fixed_vocabulary`. Raises ValueError if the name is taken.
    """
    keys = _open_type(name) if config is None else section_type(name, config, BackboneConfig)
    traits = sigma_optional, takes_blocks, takes_documents, token_levels, fixed_vocabulary
    return BACKBONES.decorator(name, lambda build: BackboneEntry(keys, build, *traits))


def find_level_problem(section: BackboneConfig) -> Violation | None:
    """Return why a section's network cannot use a noise level for each token; None if it can, or that is unknown."""
    found = section.level_problem()
    if found is None and BACKBONES.get(section.type).token_levels is False:
        message = f"backbone {section.type} is registered with token_levels=False: it takes one level for a row"
        known = " or ".join(name for name in BACKBONES if BACKBONES.get(name).token_levels)
        return Violation(message, ("type",), (), f"backbone: {{type: {known}}}")
    return found


def _open_type(name: str) -> type[BackboneConfig]:
    """Return the type of a section that takes any keys besides `type` and `device`."""
    open_type = type("OpenBackboneConfig", (BackboneConfig,), {"model_config": ConfigDict(extra="allow")})
    return create_model("OpenBackboneConfig", __base__=open_type, type=(str, name))
