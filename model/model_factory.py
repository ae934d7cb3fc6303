"""Build models from a checked `ModelConfig`, by registry, and load saved ones."""

import os
from typing import TYPE_CHECKING, get_args

from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig, ModelType
from model.registry import MODELS, model_entry
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
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
        """Build any registered model on its device, with the attributes `config` and `save_pretrained(folder)`.

        Raises TypeError for anything but a ModelConfig, DeviceError for a device that this machine lacks.
        """
        if not isinstance(config, ModelConfig):
            raise TypeError(_describe_misuse(config))
        from model.checkpoint import attach_config

        return attach_config(model_entry(config.model_type).build(config.config), config)

    @staticmethod
    def list_model_types() -> list[str]:
        """List the names of all model types, the built-in ones first."""
        built_in = list(get_args(ModelType))
        return [*built_in, *(name for name in MODELS.names() if name not in built_in)]


def _describe_misuse(given: object) -> str:
    """Return what was given instead of a ModelConfig, what fits, and what to do."""
    name = type(given).__name__
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if os.path.isdir(path):
            what, remedy = f"the folder {path!r}", f"load_model({path!r}) rebuilds a saved model"
        else:
            what, remedy = f"the path {path!r}", f"write create_model(parse_experiment({path!r}).model)"
    elif given is None:
        what, remedy = "None", "the file has no section model; add one"
    elif hasattr(given, "named_parameters"):
        what, remedy = name, "this model is built already: use it as it is"
    elif isinstance(given, tuple) and given and isinstance(given[0], ModelConfig):
        what, remedy = "a tuple", "pass its first element, as in model, datasets = parse_config(path)"
    elif hasattr(given, "model") or hasattr(given, "config"):
        what = name
        remedy = f"pass its {'model' if hasattr(given, 'model') else 'config.model'}"
    elif isinstance(given, StrictModel):
        kinds = [kind for kind in MODELS.names() if isinstance(given, model_entry(kind).config_type)]
        kind = kinds[0] if kinds else "..."
        what, remedy = name, f"wrap it: ModelConfig(model_type={kind!r}, config=...)"
    else:
        what, remedy = name, "parse_experiment(path).model reads one from a file"
    return f"create_model takes a ModelConfig, and got {what}; {remedy}"


def create_model(config: ModelConfig) -> "nn.Module":
    """Build the model that `config` describes; see `ModelFactory.create_model`."""
    return ModelFactory.create_model(config)


def load_model(folder: "str | os.PathLike[str]", *, device: str | None = None) -> "nn.Module":
    """Rebuild the model that `save_pretrained` wrote into `folder`; see `model.checkpoint.load_model`."""
    from model.checkpoint import load_model as load

    return load(folder, create_model, device=device)
