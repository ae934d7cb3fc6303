"""Types of the section `backbone.encoder`, by which a denoiser reads a source, and their registry; no torch is imported.

A builder is called as `build(config, num_tokens)` with the number of data tokens, and returns a module with `width` that
maps ids int [B, M] and a mask bool [B, M] to float [B, M, width].
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from model.core_registry import first_of_direction
from model.hub import find_folder_problem
from model.types import PerformerParams
from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.registry import Registry, import_on_call
from model_factory.yaml_config.strict_model import StrictModel, Violation


class ContextEncoderEntry(NamedTuple):
    """An encoder of sources: the type of its section, and its builder, `(config, num_tokens) -> nn.Module`."""

    config_type: type[StrictModel]
    build: Callable[..., Any]


CONTEXT_ENCODERS: Registry[ContextEncoderEntry] = Registry("context encoder", "model_factory.context_encoders")


class PerformerContextConfig(PerformerParams):
    """Our Performer encoder, softmax or linear, from scratch; its width may differ from the backbone's."""

    type: Literal["performer"] = "performer"

    def violations(self) -> Iterator[Violation]:
        """Yield causal attention, and keys that belong to the model's or the backbone's section."""
        yield from super().violations()
        causal = first_of_direction(self, "causal")
        if causal is not None:
            message = f"{causal} is causal, and an encoder reads the whole source"
            yield Violation(message, ("attention_type",), (), "attention_type: linear")
        for key in ("vocab_size", "input_dim", "use_cross_attention"):
            if getattr(self, key):
                message = f"{key} is not a key of the encoder of a backbone, which reads the data's tokens"
                yield Violation(message, (key,), (), "leave it out")
        if self.device != "auto":
            yield Violation("the encoder is on the backbone's device", ("device",), (), "leave it out")


class HuggingFaceContextConfig(StrictModel):
    """A pretrained encoder of Hugging Face, of an encoder-decoder such as T5 its encoder."""

    type: Literal["hugging_face"] = "hugging_face"
    path: PathText
    """A folder with config.json and weights in safetensors, or a name on the hub, `owner/name`."""
    freeze: bool = False
    """Keep the pretrained weights as they are, and train the layers that read its output alone."""

    def violations(self) -> Iterator[Violation]:
        """Yield a path that is no folder with a model."""
        problem = find_folder_problem(self.path)
        if problem is not None:
            yield Violation(f"{self.path}: {problem}", ("path",), suggestion="a folder with config.json, or owner/name")


for _config, _build in ((PerformerContextConfig, "OwnEncoder"), (HuggingFaceContextConfig, "PretrainedEncoder")):
    _name = str(_config.model_fields["type"].default)
    CONTEXT_ENCODERS.add(_name, ContextEncoderEntry(_config, import_on_call(f"model.denoisers.context:{_build}")))

EncoderChoice = Annotated[StrictModel | None, FromRegistry(CONTEXT_ENCODERS, default="performer", or_none=True)]


def reads_source(backbone: StrictModel) -> bool:
    """Return True if the section of a backbone has an encoder of this registry, not another one of a custom backbone."""
    types = tuple(CONTEXT_ENCODERS.get(name).config_type for name in CONTEXT_ENCODERS)
    return isinstance(getattr(backbone, "encoder", None), types)
