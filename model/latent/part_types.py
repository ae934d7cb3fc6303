"""Types of the sections `encoder`, `decoder` and `denoiser` of a latent diffusion model; no torch is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from model.core_registry import core_entry, first_of_direction
from model.hub import find_folder_problem
from model.latent.registry import LATENT_POOLERS, LATENT_ROUTES, RouteTarget
from model.types import AttentionType, PerformerParams, Size
from model_factory.yaml_config.from_registry import FromRegistry, name_of
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.strict_model import StrictModel, Violation

Pooling = Annotated[StrictModel | str, FromRegistry(LATENT_POOLERS, names="kept")]
Route = Annotated[StrictModel | str, FromRegistry(LATENT_ROUTES, names="kept")]
Share = Annotated[float, Field(ge=0, lt=1)]
_SIZES = ("hidden_size", "num_layers", "num_heads")


def _different(value: list[Route]) -> list[Route]:
    if len({name_of(route) for route in value}) < len(value):
        raise ValueError("names a route twice")
    return value


Routes = Annotated[list[Route], Field(min_length=1), AfterValidator(_different)]


class HuggingFacePart(StrictModel):
    """A transformer of Hugging Face: pretrained from `path`, or from scratch, of the sizes that are given."""

    type: str
    """The architecture's connector, or hugging_face."""
    path: PathText | None = None
    """A folder with config.json and weights in safetensors, or a name on the hub; None: from scratch."""
    hidden_size: Size | None = None
    """Width of the residual stream, from scratch. [channels]"""
    num_layers: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Number of layers, from scratch. [layers]"""
    num_heads: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Number of heads, from scratch; divides hidden_size. [heads]"""
    intermediate_size: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Width of the feed-forward layer, from scratch; None: 4 * hidden_size. [channels]"""
    max_length: Size | None = None
    """Number of positions, from scratch; None: 512. [tokens]"""
    dropout: Share | None = None
    """Probability of dropping a value or an attention weight, from scratch; None: 0.1. [probability]"""
    vocab_size: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Number of token ids, from scratch; None: the data set's tokenizer's. [tokens]"""

    def violations(self) -> Iterator[Violation]:
        """Yield sizes given beside pretrained weights, and sizes missing without them."""
        keys = (*_SIZES, "intermediate_size", "max_length", "dropout")
        if self.path is not None:
            problem = find_folder_problem(self.path)
            if problem is not None:
                yield Violation(f"{self.path}: {problem}", ("path",), (), "a folder with config.json, or owner/name")
            for key in keys:
                if getattr(self, key) is not None:
                    yield Violation(f"{key} is set by the weights of path", (key,), (("path",),), "leave it out")
            return
        for key in _SIZES:
            if getattr(self, key) is None:
                message = f"without path the model is built from scratch, which needs {key}"
                yield Violation(message, (key,), (("type",),), f"add {key}: {64 if key == 'hidden_size' else 2}")
        width, heads = self.hidden_size, self.num_heads
        if width is not None and heads is not None and width % heads:
            near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads))
            message = f"num_heads {heads} does not divide hidden_size {width}"
            yield Violation(message, ("num_heads",), (("hidden_size",),), f"num_heads: {near}")


class ArchitecturePart(HuggingFacePart):
    """Any architecture of transformers."""

    architecture: Annotated[str, Field(min_length=1)] | None = None
    """Without path: what transformers calls model_type, such as bert, modernbert, gpt2 or llama."""

    def violations(self) -> Iterator[Violation]:
        """Yield a part with both path and architecture, or with neither."""
        yield from super().violations()
        if (self.path is None) == (self.architecture is None):
            given = "neither path nor architecture is set" if self.path is None else "the architecture is set by path"
            key = "architecture"
            yield Violation(
                given, (key,), (("path",),), "add architecture: bert" if self.path is None else "leave it out"
            )


class ConnectorEncoderConfig(HuggingFacePart):
    """An encoder by its published name, which sets architecture and pooling."""


class HuggingFaceEncoderConfig(ArchitecturePart):
    """Any encoder of Hugging Face; of an encoder-decoder such as T5, its encoder."""

    type: Literal["hugging_face"] = "hugging_face"
    pooling: Pooling = "mean"
    """first token, masked mean, DeBERTa's context pooler, or a registered pooler."""
    freeze: bool = False
    """Freeze the pretrained weights, and train one more layer on top."""


class PerformerEncoderConfig(PerformerParams):
    """Our Performer encoder, softmax or linear."""

    type: Literal["performer"] = "performer"
    pooling: Pooling = "mean"
    """first token, masked mean, DeBERTa's context pooler, or a registered pooler."""

    def violations(self) -> Iterator[Violation]:
        """Yield causal attention, float input and cross-attention, which an encoder of texts cannot have."""
        yield from super().violations()
        causal = first_of_direction(self, "causal")
        if causal is not None:
            message = f"{causal} is causal, and a latent encodes the whole text"
            yield Violation(message, ("attention_type",), (), "attention_type: linear")
        yield from _float_input_violations(self)
        if self.use_cross_attention:
            yield Violation("an encoder has no context to attend to", ("use_cross_attention",), (), "leave it out")


class Injected(StrictModel):
    """Keys of the routes by which a latent enters a decoder."""

    routes: Routes = ["embedding", "memory"]
    """embedding (added to every token's), memory (a kv prefix of num_slots positions in every layer), cross_attention
    (to num_slots vectors), soft_prompt (num_slots vectors in front of the tokens), or a registered route."""
    num_slots: Annotated[int, Field(gt=0, le=1024)] = 1
    """Positions or vectors of memory, cross_attention and soft_prompt. [vectors]"""

    @property
    def targets(self) -> list[RouteTarget]:
        """Return the decoder input that each route feeds."""
        return [LATENT_ROUTES.get(name_of(route)).target for route in self.routes]

    @property
    def slots_in_front(self) -> int:
        """Return the number of positions that the latent takes in front of the tokens."""
        return self.num_slots * len({"memory", "soft_prompt"}.intersection(self.targets))


class ConnectorDecoderConfig(HuggingFacePart):
    """GPT-2 by the published name of its connector."""

    latent_as_gpt_emb: bool = True
    """Add the latent to the embedding of every token."""
    latent_as_gpt_memory: bool = True
    """Give every layer the latent as a kv prefix of one key and value."""

    def violations(self) -> Iterator[Violation]:
        """Yield a decoder without a route for the latent."""
        yield from super().violations()
        if not self.latent_as_gpt_emb and not self.latent_as_gpt_memory:
            message = "the decoder would ignore the latent: latent_as_gpt_emb and latent_as_gpt_memory are both false"
            yield Violation(message, ("latent_as_gpt_memory",), (("latent_as_gpt_emb",),), "true for one of them")


class HuggingFaceDecoderConfig(ArchitecturePart, Injected):
    """Any causal decoder of Hugging Face."""

    type: Literal["hugging_face"] = "hugging_face"

    def violations(self) -> Iterator[Violation]:
        """Yield routes that do not go together, and unused slots."""
        yield from super().violations()
        yield from _route_violations(self)


class PerformerDecoderConfig(PerformerParams, Injected):
    """Our Performer decoder, softmax or causal_linear."""

    type: Literal["performer"] = "performer"

    def violations(self) -> Iterator[Violation]:
        """Yield attention that is not causal, float input, and cross-attention that is not set by routes."""
        yield from super().violations()
        open_core = first_of_direction(self, "bidirectional")
        if open_core is not None:
            message = f"bidirectional `{open_core}` attention in a decoder lets a token see the ones after it"
            yield Violation(message, ("attention_type",), (), "attention_type: causal_linear")
        yield from _float_input_violations(self)
        yield from _route_violations(self)
        if self.use_cross_attention is not None:
            message = "cross-attention of this decoder is set by routes"
            yield Violation(message, ("use_cross_attention",), (("routes",),), "routes: [cross_attention]")


def _route_violations(part: Injected) -> Iterator[Violation]:
    targets = part.targets
    for index, target in enumerate(targets):
        if target in targets[:index]:
            names = name_of(part.routes[targets.index(target)]), name_of(part.routes[index])
            message = f"routes {names[0]} and {names[1]} both feed the decoder's {target}"
            yield Violation(message, ("routes", index), (("routes", targets.index(target)),), "keep one of them")
    if part.num_slots > 1 and targets == ["embedding"]:
        message = "num_slots is used by memory, cross_attention and soft_prompt, and the only route is embedding"
        yield Violation(message, ("num_slots",), (("routes",),), "leave it out")


def _float_input_violations(params: PerformerParams) -> Iterator[Violation]:
    if params.input_dim is not None:
        yield Violation(
            "input_dim is for float input, and the input of this part is tokens", ("input_dim",), (), "leave it out"
        )


class MlpDenoiserConfig(StrictModel):
    """MLPSkipNet: the latent is concatenated again before every layer (Preechakul et al. 2022, arXiv 2111.15640)."""

    type: Literal["mlp"] = "mlp"
    width: Size = 512
    """Width of the layers (2048 as published). [channels]"""
    num_layers: Annotated[int, Field(gt=1, le=1000)] = 8
    """Number of layers (20 as published). [layers]"""


class TransformerDenoiserConfig(StrictModel):
    """TransformerNet: a transformer over the latent, split into a few tokens."""

    type: Literal["transformer"] = "transformer"
    d_model: Size = 512
    """Width of a token. [channels]"""
    num_tokens: Annotated[int, Field(gt=0, le=4096)] = 4
    """Number of tokens that the latent is split into. [tokens]"""
    num_layers: Annotated[int, Field(gt=0, le=1000)] = 12
    """Number of layers. [layers]"""
    num_heads: Annotated[int, Field(gt=0, le=65_536)] = 8
    """Number of heads; divides d_model. [heads]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a number of heads that does not divide the width."""
        if self.d_model % self.num_heads:
            message = f"num_heads {self.num_heads} does not divide d_model {self.d_model}"
            yield Violation(message, ("num_heads",), (("d_model",),), "a divisor of d_model")


class PerformerDenoiserConfig(TransformerDenoiserConfig):
    """Our Performer encoder over the latent, split into a few tokens."""

    type: Literal["performer"] = "performer"  # type: ignore[assignment]
    num_layers: Annotated[int, Field(gt=0, le=1000)] = 4
    """Number of layers. [layers]"""
    attention_type: AttentionType = "softmax"
    """softmax, linear or a registered core that is not causal; a list of them has one for each layer."""

    def violations(self) -> Iterator[Violation]:
        """Yield heads that do not divide the width, and attention cores that do not fit."""
        yield from super().violations()
        types = self.attention_type
        if isinstance(types, list) and len(types) != self.num_layers:
            message = f"attention_type lists {len(types)} layers, and num_layers is {self.num_layers}"
            yield Violation(message, ("attention_type",), (("num_layers",),), "one name for each layer, or one for all")
        for name in map(name_of, types if isinstance(types, list) else [types]):
            if core_entry(name).direction == "causal":
                message = f"{name} is causal, and the tokens of a latent have no order"
                yield Violation(message, ("attention_type",), (), "attention_type: linear")
                return


class LinearDenoiserConfig(StrictModel):
    """LinearModel: three linear layers."""

    type: Literal["linear"] = "linear"


class ResidualDenoiserConfig(StrictModel):
    """ResidualLinear: residual blocks of LayerNorm, linear and LeakyReLU."""

    type: Literal["residual"] = "residual"


class DDIMConfig(StrictModel):
    """DDIM (Song et al. 2021)."""

    type: Literal["ddim"] = "ddim"

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the ancestral noise that a step adds; 0: the sample is a function of its first noise. [1]"""
