"""Built-in backbones; importing this module registers them, and imports no torch."""

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from model.denoisers.config_types import (
    BertBackboneConfig,
    DDiTBackboneConfig,
    HuggingFaceBackboneConfig,
    PerformerBackboneConfig,
)
from model.denoisers.registry import BACKBONES, register_backbone
from model.denoisers.view import BackboneView

if TYPE_CHECKING:
    from torch import nn

    from model.denoisers.view import BackboneView


@register_backbone("performer", config=PerformerBackboneConfig, sigma_optional=True)
def build_performer(config: "BackboneView", vocab_size: int) -> "nn.Module":
    """Build a Performer encoder, softmax or linear."""
    from model.denoisers.performer import PerformerDenoiser

    return PerformerDenoiser(config, vocab_size)


@register_backbone("ddit", config=DDiTBackboneConfig, sigma_optional=True, takes_blocks=True)
def build_ddit(config: "BackboneView", vocab_size: int) -> "nn.Module":
    """Build SEDD's diffusion transformer."""
    from model.denoisers.ddit import DDiT

    return DDiT(config, vocab_size)


@register_backbone("bert", config=BertBackboneConfig, sigma_optional=True)
def build_bert(config: "BackboneView", vocab_size: int) -> "nn.Module":
    """Build BERT, from scratch."""
    from model.denoisers.bert import BertDenoiser

    return BertDenoiser(config, vocab_size)


@register_backbone("hugging_face", config=HuggingFaceBackboneConfig, sigma_optional=True)
def build_hugging_face(config: "BackboneView", vocab_size: int) -> "nn.Module":
    """Load a pretrained language model."""
    from model.denoisers.hugging_face import HuggingFaceDenoiser

    return HuggingFaceDenoiser(config, vocab_size)


# Build a backbone by its registered name; errors of its builder name the file and line.


class BackboneError(ValueError):
    """Error of a builder that failed or returned no module; the cause is chained."""


def build_backbone(name: str, config: BackboneView, vocab_size: int) -> nn.Module:
    """Build the network of a registered backbone; `vocab_size` is the process's dim.

    Raises BackboneError if the builder fails on its config or returns no module. ValueErrors pass unchanged: their
    messages are written for the user.
    """
    try:
        network = BACKBONES.get(name).build(config, vocab_size)
    except (AttributeError, TypeError, LookupError, AssertionError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        location = f"{Path(frames[1].filename).name}:{frames[1].lineno}" if len(frames) > 1 else "its call"
        message = f"backbone {name!r} cannot be built: {type(error).__name__} at {location}: {error}"
        raise BackboneError(message) from error
    if not isinstance(network, nn.Module):
        raise BackboneError(
            f"backbone {name!r}: its builder returned a {type(network).__name__}; it must return an nn.Module"
        )
    return network
