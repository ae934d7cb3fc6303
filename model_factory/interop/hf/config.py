"""Configs of our models for transformers: the `model` section of a run, and the sizes that tools read."""

from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig

from model.checkpoint import with_device
from model.hub import replacing_weights
from model.model_factory import create_model
from model.model_types import ModelConfig
from model.registry import model_entry
from model.types import PerformerParams

_HEADER = ("model_type", "name")


class ModelFactoryHubConfig(PreTrainedConfig):
    """Base of the configs; `section` is the `model` section of a run with all defaults.

    The sizes follow from the section; `vocab_size` counts the rows of the embedding, a denoiser's mask among them.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    section: dict[str, Any] | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False  # our tied head is the embedding itself
    use_cache: bool = True

    def model_config(self) -> ModelConfig:
        """Return the section as a checked config on the CPU, where transformers loads; raise ValueError if it is invalid."""
        if self.section is None:
            raise ValueError(f"config.json has no 'section', which {type(self).__name__} builds the model from")
        section = dict(self.section)
        name = section.get("model_type")
        body = {key: value for key, value in section.items() if key not in _HEADER}
        config = model_entry(str(name)).config_type.model_validate(body)
        return with_device(ModelConfig(model_type=str(name), name=section.get("name", "model"), config=config), "cpu")

    def build(self) -> Any:
        """Build the network of the section with fresh weights."""
        with torch.device("cpu"), replacing_weights():  # not on the meta device, as parts are computed from the section
            return create_model(self.model_config())


class DecoderHubConfig(ModelFactoryHubConfig):
    """Config of a decoder."""

    model_type: ClassVar[str] = "model_factory_decoder"


class EncoderHubConfig(ModelFactoryHubConfig):
    """Config of an encoder."""

    model_type: ClassVar[str] = "model_factory_encoder"


class EncoderDecoderHubConfig(ModelFactoryHubConfig):
    """Config of an encoder-decoder."""

    model_type: ClassVar[str] = "model_factory_encoder_decoder"
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = None


class DenoiserHubConfig(ModelFactoryHubConfig):
    """Config of a discrete diffusion model; `mask_token_id` is None unless the noise is absorbing."""

    model_type: ClassVar[str] = "model_factory_denoiser"
    mask_token_id: int | None = None
    sequence_length: int | None = None


_CONFIGS: dict[str, type[ModelFactoryHubConfig]] = {
    "decoder": DecoderHubConfig,
    "encoder": EncoderHubConfig,
    "encoder_decoder": EncoderDecoderHubConfig,
    "diffusion": DenoiserHubConfig,
}


def make_hub_config(config: ModelConfig, network: Any, tokenizer: Any) -> ModelFactoryHubConfig:
    """Return the config of transformers for a built network.

    Arguments:
        config: of the model; its section is stored with `device: auto` where a run names an accelerator.
        network: what the model factory built of it.
        tokenizer: of the run, or None; gives the ids of bos, eos and pad.
    Raises ValueError for a type of model without a class in this package.
    """
    kind = _CONFIGS.get(config.model_type)
    if kind is None:
        raise ValueError(
            f"model_type {config.model_type} has no class of transformers; {', '.join(_CONFIGS)} can be exported"
        )
    sizes: dict[str, Any] = {}
    if tokenizer is not None:
        sizes = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if config.model_type == "encoder_decoder":
        sizes["decoder_start_token_id"] = sizes.get("bos_token_id")
    section = with_device(config, "auto").to_section()
    return kind(section=section, **sizes, **_sizes(config, network))


def _sizes(config: ModelConfig, network: Any) -> dict[str, Any]:
    inner: Any = config.config
    if config.model_type == "diffusion":
        backbone = inner.backbone
        return {
            "vocab_size": network.width,
            "hidden_size": getattr(backbone, "d_model", getattr(backbone, "hidden_size", None)),
            "num_hidden_layers": getattr(backbone, "num_layers", None),
            "num_attention_heads": getattr(backbone, "num_heads", None),
            "mask_token_id": network.process.graph.mask_token,
            "sequence_length": inner.sequence_length,
        }
    params: PerformerParams = inner.decoder_params if config.model_type == "encoder_decoder" else inner.params
    return {
        "vocab_size": params.vocab_size,
        "hidden_size": params.d_model,
        "num_hidden_layers": params.num_layers,
        "num_attention_heads": params.num_heads,
        "max_position_embeddings": params.max_length,
    }
