"""Built-in parts of latent diffusion models; importing this module registers them, and imports no torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from model.latent import part_types
from model.latent.registry import (
    LATENT_DECODERS,
    LATENT_ENCODERS,
    PartEntry,
    register_latent_decoder,
    register_latent_denoiser,
    register_latent_encoder,
    register_latent_pooler,
    register_latent_route,
    register_latent_sampler,
    register_latent_schedule,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model.latent.connectors.pooling import PretrainedPooler
    from model.latent.decoder import LatentDecoder
    from model.latent.encoder import LatentEncoder
    from model_factory.diffusion.gaussian import GaussianDiffusion, Variance

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


@register_latent_encoder("performer", config=part_types.PerformerEncoderConfig)
def _performer_encoder(config: part_types.PerformerEncoderConfig, latent_size: int) -> "LatentEncoder":
    from model.latent.connectors.pooling import make_pooler
    from model.latent.encoder import LatentEncoder
    from model.transformer.performer import PerformerEncoder

    backbone = PerformerEncoder(config, has_head=False)
    return LatentEncoder(backbone, make_pooler(config.pooling, config.d_model), config.d_model, latent_size)


@register_latent_encoder("hugging_face", config=part_types.HuggingFaceEncoderConfig)
def _hugging_face_encoder(config: part_types.HuggingFaceEncoderConfig, latent_size: int) -> "LatentEncoder":
    from model.latent.connectors.hugging_face import encoder_of, take_pooler
    from model.latent.encoder import LatentEncoder, top_layer
    from model.latent.from_section import make_config

    hf_config = make_config(config, config.architecture)
    backbone = encoder_of(hf_config, config.path)
    top = top_layer(hf_config) if config.freeze else None
    return LatentEncoder(
        backbone, take_pooler(backbone, config.pooling), hf_config.hidden_size, latent_size, top_layer=top
    )


@register_latent_decoder("performer", config=part_types.PerformerDecoderConfig)
def _performer_decoder(config: part_types.PerformerDecoderConfig, latent_size: int) -> "LatentDecoder":
    from model.latent.connectors.injection import Injection
    from model.latent.connectors.performer_reader import PerformerReader, shape_of
    from model.latent.decoder import LatentDecoder
    from model.transformer.performer import PerformerDecoder

    has_cross_attention = "cross_attention" in config.targets
    backbone = PerformerDecoder(config.model_copy(update={"use_cross_attention": has_cross_attention}))
    injection = Injection(latent_size, shape_of(config), config.routes, config.num_slots)
    return LatentDecoder(PerformerReader(backbone, injection))


@register_latent_decoder("hugging_face", config=part_types.HuggingFaceDecoderConfig)
def _hugging_face_decoder(config: part_types.HuggingFaceDecoderConfig, latent_size: int) -> "LatentDecoder":
    from model.latent.connectors.hugging_face_reader import HuggingFaceReader, check_decodes, shape_of
    from model.latent.connectors.injection import Injection
    from model.latent.decoder import LatentDecoder
    from model.latent.from_section import make_config, make_decoder

    hf_config = make_config(config, config.architecture)
    backbone = make_decoder(hf_config, config.path, cross_attention="cross_attention" in config.targets)
    injection = Injection(latent_size, shape_of(hf_config), config.routes, config.num_slots)
    reader = HuggingFaceReader(backbone, injection)
    check_decodes(reader, f"decoder {config.path or config.architecture}")
    return LatentDecoder(reader)


def _connector(name: str, config: part_types.HuggingFacePart, latent_size: int) -> "nn.Module":
    from model.latent.connectors.published import MODEL_CLASS
    from model.latent.connectors.saving import check_architecture
    from model.latent.from_section import make_config

    kind: Any = MODEL_CLASS[name]
    hf_config = make_config(config, kind.architectures[0])
    check_architecture(kind, hf_config)
    options = {
        key: getattr(config, key) for key in ("latent_as_gpt_emb", "latent_as_gpt_memory") if hasattr(config, key)
    }
    backbone = None if config.path is None else kind.backbone_from(hf_config, config.path)
    module: nn.Module = kind(hf_config, latent_size, backbone=backbone, **options)
    return module


def _add_connector(registry: Any, name: str, config: type[part_types.HuggingFacePart]) -> None:
    registry.add(name, PartEntry(config, lambda section, size: _connector(name, section, size)))


for _name in ENCODER_NAMES:
    _add_connector(LATENT_ENCODERS, _name, part_types.ConnectorEncoderConfig)
for _name in DECODER_NAMES:
    _add_connector(LATENT_DECODERS, _name, part_types.ConnectorDecoderConfig)


@register_latent_denoiser("mlp", config=part_types.MlpDenoiserConfig)
def _mlp(config: part_types.MlpDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import MLPSkipNet

    return MLPSkipNet(latent_size, width=config.width, num_layers=config.num_layers, time_scale=time_scale)


@register_latent_denoiser("transformer", config=part_types.TransformerDenoiserConfig)
def _transformer(config: part_types.TransformerDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import TransformerNet

    sizes = config.model_dump(exclude={"type"})
    return TransformerNet(latent_size, **sizes, time_scale=time_scale)


@register_latent_denoiser("performer", config=part_types.PerformerDenoiserConfig)
def _performer(config: part_types.PerformerDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import PerformerNet

    sizes = config.model_dump(exclude={"type"})
    return PerformerNet(latent_size, **sizes, time_scale=time_scale)


@register_latent_denoiser("linear", config=part_types.LinearDenoiserConfig)
def _linear(config: part_types.LinearDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import LinearModel

    return LinearModel(latent_size)


@register_latent_denoiser("residual", config=part_types.ResidualDenoiserConfig)
def _residual(config: part_types.ResidualDenoiserConfig, latent_size: int, time_scale: float) -> "nn.Module":
    from model.latent.networks import ResidualLinear

    return ResidualLinear(latent_size)


@register_latent_pooler("first")
def _first(config: Any, width: int, pretrained: "PretrainedPooler") -> "nn.Module":
    from model.latent.connectors.pooling import Pooler, first_token

    return Pooler(first_token, width, pretrained._replace(dropout=0.0))


@register_latent_pooler("mean")
def _mean(config: Any, width: int, pretrained: "PretrainedPooler") -> "nn.Module":
    from model.latent.connectors.pooling import Pooler, masked_mean

    return Pooler(masked_mean, width, pretrained._replace(dropout=0.0))


@register_latent_pooler("context")
def _context(config: Any, width: int, pretrained: "PretrainedPooler") -> "nn.Module":
    from torch import nn

    from model.latent.connectors.pooling import Pooler, first_token

    return Pooler(first_token, width, pretrained, nn.GELU())


@register_latent_route("soft_prompt", target="soft_prompt")
@register_latent_route("cross_attention", target="cross_attention")
@register_latent_route("memory", target="memory")
@register_latent_route("embedding", target="embedding")
def _linear_route(config: Any, latent_size: int, out_features: int) -> "nn.Module":
    from torch import nn

    return nn.Linear(latent_size, out_features, bias=False)


@register_latent_schedule("constant", reads=("beta_start",))
@register_latent_schedule("cosine")
@register_latent_schedule("linear", reads=("beta_start", "beta_end"))
def _beta_schedule(config: Any, num_steps: int, betas: tuple[float, float]) -> "Tensor":
    from model_factory.diffusion.gaussian_schedule import beta_table

    return beta_table(config.type, num_steps, *betas)[1:]


@register_latent_sampler("ancestral")
def _ancestral_step(
    config: Any,
    diffusion: "GaussianDiffusion",
    x_t: "Tensor",
    x_0: "Tensor",
    t: int,
    s: int,
    draw: "Callable[[], Tensor]",
    variance: "Variance",
) -> "Tensor":
    """Take a step by Ho et al. 2020."""
    return diffusion.ancestral_step(x_t, x_0, t, s, draw() if s > 0 else None, variance)


@register_latent_sampler("ddim", config=part_types.DDIMConfig)
def _ddim_step(
    config: part_types.DDIMConfig,
    diffusion: "GaussianDiffusion",
    x_t: "Tensor",
    x_0: "Tensor",
    t: int,
    s: int,
    draw: "Callable[[], Tensor]",
    variance: "Variance",
) -> "Tensor":
    """Take a step by Song et al. 2021."""
    noise = draw() if s > 0 and config.eta > 0 else None
    return diffusion.ddim_step(x_t, x_0, t, s, 0.0 if noise is None else config.eta, noise)
