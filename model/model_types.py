"""Types of the `model` section: the config of each built-in model type, and `ModelConfig`, which holds one."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from model.core_registry import core_entry
from model.registry import MODELS, model_entry, register_model
from model.types import PerformerParams
from model_factory.yaml_config.strict_model import StrictModel, Violation

ModelType = Literal["encoder", "decoder", "encoder_decoder"]
"""Built-in model types; `ModelFactory.list_model_types()` lists registered ones too."""


def _needs_causal(part: str, params: PerformerParams) -> Iterator[Violation]:
    is_list = isinstance(params.attention_type, list)
    for index, name in enumerate(params.attention_types if is_list else params.attention_types[:1]):
        if core_entry(name).direction == "bidirectional":
            yield Violation(
                f"bidirectional `{name}` attention in a decoder lets a token see the ones after it",
                (part, "attention_type", index) if is_list else (part, "attention_type"),
                suggestion="causal_linear in its place" if is_list else "attention_type: causal_linear",
            )


def _needs_no_context(part: str, params: PerformerParams) -> Iterator[Violation]:
    if params.use_cross_attention:
        yield Violation(
            "cross-attention needs a context, and an encoder has none",
            (part, "use_cross_attention"),
            suggestion="use_cross_attention: false",
        )


class EncoderConfig(StrictModel):
    """A stack that sees the whole sequence (with `causal_linear`, a streaming encoder). In a file: `encoder: {...}`."""

    parts: ClassVar[tuple[str, ...]] = ("encoder",)
    params: PerformerParams = Field(alias="encoder")
    """The stack."""

    def violations(self) -> Iterator[Violation]:
        """Yield cross-attention, which an encoder cannot have."""
        yield from _needs_no_context("encoder", self.params)

    def to_dict(self) -> dict[str, Any]:
        """Return the stack's parameters as plain keyword arguments."""
        return self.params.model_dump()

    def sized(self, vocab_size: int | None, length: int | None) -> "EncoderConfig":
        """Return a copy with a tokenizer's vocabulary size if it is not set; see `PerformerParams.sized`."""
        return self.model_copy(update={"params": self.params.sized(vocab_size)})


class DecoderConfig(StrictModel):
    """A stack whose tokens see only earlier ones. In a file: `decoder: {...}`."""

    parts: ClassVar[tuple[str, ...]] = ("decoder",)
    params: PerformerParams = Field(alias="decoder")
    """The stack."""

    def violations(self) -> Iterator[Violation]:
        """Yield attention that is not causal."""
        yield from _needs_causal("decoder", self.params)

    @property
    def use_cross_attention(self) -> bool:
        """True if each layer also attends to a context given at the call; false by default in a decoder alone."""
        return bool(self.params.use_cross_attention)

    def to_dict(self) -> dict[str, Any]:
        """Return the stack's parameters as plain keyword arguments."""
        return {**self.params.model_dump(), "use_cross_attention": self.use_cross_attention}

    def sized(self, vocab_size: int | None, length: int | None) -> "DecoderConfig":
        """Return a copy with a tokenizer's vocabulary size if it is not set; see `PerformerParams.sized`."""
        return self.model_copy(update={"params": self.params.sized(vocab_size)})


class EncoderDecoderConfig(StrictModel):
    """An encoder and a decoder that attends to it. In a file: `encoder: {...}` and `decoder: {...}`."""

    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    encoder_params: PerformerParams = Field(alias="encoder")
    """The stack that reads the source."""
    decoder_params: PerformerParams = Field(alias="decoder")
    """The stack that writes the target, attending to the encoder's output."""

    def violations(self) -> Iterator[Violation]:
        """Yield parts that do not fit their role, and widths that differ."""
        yield from _needs_no_context("encoder", self.encoder_params)
        if self.encoder_params.head_bias:
            yield Violation(
                "the encoder of an encoder-decoder has no output head",
                ("encoder", "head_bias"),
                suggestion="decoder: {head_bias: true}",
            )
        yield from _needs_causal("decoder", self.decoder_params)
        widths = self.encoder_params.d_model, self.decoder_params.d_model
        if widths[0] != widths[1]:
            yield Violation(
                f"the decoder's d_model {widths[1]} differs from the encoder's {widths[0]}, which it attends to",
                ("decoder", "d_model"),
                (("encoder", "d_model"),),
                f"d_model: {widths[0]}",
            )
        if self.decoder_params.use_cross_attention is False:
            yield Violation(
                "without cross-attention the decoder would never see the encoder",
                ("decoder", "use_cross_attention"),
                suggestion="leave it out, or model_type: decoder",
            )

    def sized(self, vocab_size: int | None, length: int | None) -> "EncoderDecoderConfig":
        """Return a copy with a tokenizer's vocabulary size in both parts; see `PerformerParams.sized`."""
        encoder, decoder = self.encoder_params.sized(vocab_size), self.decoder_params.sized(vocab_size)
        return self.model_copy(update={"encoder_params": encoder, "decoder_params": decoder})

    def to_encoder_dict(self) -> dict[str, Any]:
        """Return the encoder's parameters as plain keyword arguments."""
        return self.encoder_params.model_dump()

    def to_decoder_dict(self) -> dict[str, Any]:
        """Return the decoder's parameters as plain keyword arguments, with cross-attention."""
        return {**self.decoder_params.model_dump(), "use_cross_attention": True}


class ModelConfig(StrictModel):
    """A model to build: `model_type`, `config` of the type that is registered for it, and a name."""

    model_type: str
    config: SerializeAsAny[StrictModel]
    name: str = "model"

    @model_validator(mode="after")
    def _config_fits_type(self) -> "ModelConfig":
        expected = model_entry(self.model_type).config_type
        if not isinstance(self.config, expected):
            raise ValueError(
                f"model_type {self.model_type!r} takes a {expected.__name__}, not a {type(self.config).__name__}"
            )
        return self

    def to_section(self) -> dict[str, Any]:
        """Return the `model` section of a file that parses to this config, with all defaults written out."""
        body = self.config.model_dump(mode="json", by_alias=True)
        return {"model_type": self.model_type, "name": self.name, **body}


@register_model("encoder", config=EncoderConfig)
def _build_encoder(config: EncoderConfig) -> Any:
    from model.transformer.performer import PerformerEncoder

    return PerformerEncoder(config.params)


@register_model("decoder", config=DecoderConfig)
def _build_decoder(config: DecoderConfig) -> Any:
    from model.transformer.performer import PerformerDecoder

    return PerformerDecoder(config.params)


@register_model("encoder_decoder", config=EncoderDecoderConfig)
def _build_encoder_decoder(config: EncoderDecoderConfig) -> Any:
    from model.transformer.performer import EncoderDecoderTransformer

    return EncoderDecoderTransformer(config.encoder_params, config.decoder_params)


MODELS.add_lazy("diffusion", "model.discrete.types")
MODELS.add_lazy("latent_diffusion", "model.latent.types")
