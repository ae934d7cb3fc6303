"""Build models from a checked `ModelConfig`, by registry, and load saved ones."""

from typing import TYPE_CHECKING, get_args

from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig, ModelType
from model.registry import MODELS, model_entry

if TYPE_CHECKING:
    import os

    from torch import nn

    from model.transformer.performer import EncoderDecoderTransformer, PerformerDecoder, PerformerEncoder


class ModelFactory:
    """Factory of models from their configs; all methods are static, and the registry is the only state."""

    @staticmethod
    def create_encoder(config: EncoderConfig) -> "PerformerEncoder":
        """Build an encoder; raises DeviceError for a device that this machine lacks."""
        return ModelFactory.create_model(ModelConfig(model_type="encoder", config=config))  # type: ignore[return-value]

    @staticmethod
    def create_decoder(config: DecoderConfig) -> "PerformerDecoder":
        """Build a decoder; raises DeviceError for a device that this machine lacks."""
        return ModelFactory.create_model(ModelConfig(model_type="decoder", config=config))  # type: ignore[return-value]

    @staticmethod
    def create_encoder_decoder(config: EncoderDecoderConfig) -> "EncoderDecoderTransformer":
        """Build an encoder-decoder; raises DeviceError for a device that this machine lacks."""
        wrapped = ModelConfig(model_type="encoder_decoder", config=config)
        return ModelFactory.create_model(wrapped)  # type: ignore[return-value]

    @staticmethod
    def create_model(config: ModelConfig) -> "nn.Module":
        """Build any registered model on its device, with the attributes `config` and `save_pretrained(folder)`."""
        from model.checkpoint import attach_config

        return attach_config(model_entry(config.model_type).build(config.config), config)

    @staticmethod
    def list_model_types() -> list[str]:
        """List the names of all model types, the built-in ones first."""
        built_in = list(get_args(ModelType))
        return [*built_in, *(name for name in MODELS.names() if name not in built_in)]


def create_model(config: ModelConfig) -> "nn.Module":
    """Build the model that `config` describes; see `ModelFactory.create_model`."""
    return ModelFactory.create_model(config)


def load_model(folder: "str | os.PathLike[str]", *, device: str | None = None) -> "nn.Module":
    """Rebuild the model that `save_pretrained` wrote into `folder`; see `model.checkpoint.load_model`."""
    from model.checkpoint import load_model as load

    return load(folder, create_model, device=device)
