"""The built-in encoders, decoders and denoisers; importing this module registers them, and imports no torch."""

from typing import TYPE_CHECKING, Any

from model.latent import part_types as types
from model.latent.registry import (
    LATENT_DECODERS,
    LATENT_ENCODERS,
    PartEntry,
    register_latent_decoder,
    register_latent_denoiser,
    register_latent_encoder,
)

if TYPE_CHECKING:
    from torch import nn

    from model.latent.decoder import LatentDecoder
    from model.latent.encoder import LatentEncoder

ENCODER_NAMES = (
    "BertForLatentConnector",
    "BertForLatentConnectorAVG",
    "BertForLatentConnectorNew",
    "RobertaForLatentConnector",
    "RobertaForLatentConnectorNew",
    "DebertaForLatentConnector",
    "DebertaForLatentConnectorNew",
    "T5EncoderForLatentConnector",
    "AlbertForLatentConnector",
)
DECODER_NAMES = ("GPT2ForLatentConnector", "GPT2ForLatentConnectorNew", "GPT2ForLatentConnectorNew2")


@register_latent_encoder("performer", config=types.PerformerEncoderConfig)
def _performer_encoder(config: types.PerformerEncoderConfig, latent_size: int) -> "LatentEncoder":
    from model.latent.encoder import LatentEncoder
    from model.latent.pooling import Pooler
    from model.transformer import PerformerEncoder

    backbone = PerformerEncoder(config, has_head=False)
    return LatentEncoder(backbone, Pooler(config.pooling, config.d_model), config.d_model, latent_size)


@register_latent_encoder("hugging_face", config=types.HuggingFaceEncoderConfig)
def _hugging_face_encoder(config: types.HuggingFaceEncoderConfig, latent_size: int) -> "LatentEncoder":
    from model.latent.encoder import LatentEncoder, top_layer
    from model.latent.from_section import config_of
    from model.latent.hugging_face import encoder_of, take_pooler

    theirs = config_of(config, config.architecture)
    backbone = encoder_of(theirs, config.path)
    top = top_layer(theirs) if config.freeze else None
    return LatentEncoder(
        backbone, take_pooler(backbone, config.pooling), theirs.hidden_size, latent_size, top_layer=top
    )


@register_latent_decoder("performer", config=types.PerformerDecoderConfig)
def _performer_decoder(config: types.PerformerDecoderConfig, latent_size: int) -> "LatentDecoder":
    from model.latent.decoder import LatentDecoder
    from model.latent.injection import Injection
    from model.latent.performer_reader import PerformerReader, shape_of
    from model.transformer import PerformerDecoder

    attends = "cross_attention" in config.routes
    backbone = PerformerDecoder(config.model_copy(update={"use_cross_attention": attends}))
    injection = Injection(latent_size, shape_of(config), config.routes, config.num_slots)
    return LatentDecoder(PerformerReader(backbone, injection))


@register_latent_decoder("hugging_face", config=types.HuggingFaceDecoderConfig)
def _hugging_face_decoder(config: types.HuggingFaceDecoderConfig, latent_size: int) -> "LatentDecoder":
    from model.latent.decoder import LatentDecoder
    from model.latent.from_section import config_of, decoder_with
    from model.latent.hugging_face_reader import HuggingFaceReader, check_reads, shape_of
    from model.latent.injection import Injection

    theirs = config_of(config, config.architecture)
    backbone = decoder_with(theirs, config.path, cross_attention="cross_attention" in config.routes)
    injection = Injection(latent_size, shape_of(theirs), config.routes, config.num_slots)
    reader = HuggingFaceReader(backbone, injection)
    check_reads(reader, f"decoder {config.path or config.architecture}")
    return LatentDecoder(reader)


def _connector(name: str, config: types.HuggingFacePart, latent_size: int) -> "nn.Module":
    from model.latent.connectors import MODEL_CLASS
    from model.latent.from_section import config_of
    from model.latent.saving import check_architecture

    kind: Any = MODEL_CLASS[name]
    theirs = config_of(config, kind.architectures[0])
    check_architecture(kind, theirs)
    options = {
        key: getattr(config, key) for key in ("latent_as_gpt_emb", "latent_as_gpt_memory") if hasattr(config, key)
    }
    backbone = None if config.path is None else kind.backbone_from(theirs, config.path)
    module: nn.Module = kind(theirs, latent_size, backbone=backbone, **options)
    return module


def _add_connector(registry: Any, name: str, config: type[types.HuggingFacePart]) -> None:
    registry.add(name, PartEntry(config, lambda section, size: _connector(name, section, size)))


for _name in ENCODER_NAMES:
    _add_connector(LATENT_ENCODERS, _name, types.ConnectorEncoderConfig)
for _name in DECODER_NAMES:
    _add_connector(LATENT_DECODERS, _name, types.ConnectorDecoderConfig)


@register_latent_denoiser("mlp", config=types.MlpDenoiserConfig)
def _mlp(config: types.MlpDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import MLPSkipNet

    return MLPSkipNet(latent_size, width=config.width, num_layers=config.num_layers, time_scale=time_scale)


@register_latent_denoiser("transformer", config=types.TransformerDenoiserConfig)
def _transformer(config: types.TransformerDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import TransformerNet

    sizes = config.model_dump(exclude={"type"})
    return TransformerNet(latent_size, **sizes, time_scale=time_scale)


@register_latent_denoiser("performer", config=types.PerformerDenoiserConfig)
def _performer(config: types.PerformerDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import PerformerNet

    sizes = config.model_dump(exclude={"type"})
    return PerformerNet(latent_size, **sizes, time_scale=time_scale)


@register_latent_denoiser("linear", config=types.LinearDenoiserConfig)
def _linear(config: types.LinearDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import LinearModel

    return LinearModel(latent_size)


@register_latent_denoiser("residual", config=types.ResidualDenoiserConfig)
def _residual(config: types.ResidualDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import ResidualLinear

    return ResidualLinear(latent_size)
