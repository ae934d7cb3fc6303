"""Built-in backbones; importing this module registers them, and imports no torch."""

from typing import TYPE_CHECKING

from model.denoisers.config_types import (
    BertBackboneConfig,
    DDiTBackboneConfig,
    HuggingFaceBackboneConfig,
    PerformerBackboneConfig,
)
from model.denoisers.registry import register_backbone

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
