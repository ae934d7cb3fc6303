"""Parameters of one Performer stack (an encoder or a decoder), checked on construction; imports no torch.

Run files of this folder with `-m`: this module has the name of a standard library module.
"""

import re
import sys
from collections.abc import Iterator
from math import log
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from model.activations import ActivationFunctions
from model.core_registry import CORES, core_entry
from model.feature_registry import FEATURE_MAPS, feature_map_entry
from model_factory.yaml_config.from_registry import FromRegistry, NameOrOptions, name_of
from model_factory.yaml_config.messages import choice_error
from model_factory.yaml_config.strict_model import StrictModel, Violation

Position = Literal["rotary", "absolute", "none"]

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,4})?")


def _check_device(value: Any) -> Any:
    """Convert a `torch.device` to its name and check it, without importing torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.device):
        value = str(value)
    if isinstance(value, str) and not _DEVICE.fullmatch(value):
        raise ValueError("must be auto, cpu, cuda, cuda:N, mps, xpu or xpu:N")
    return value


def _check_activation(value: Any) -> Any:
    """Convert a name in any case to the enum's member; reject anything else as a Literal does."""
    if isinstance(value, ActivationFunctions):
        return value
    member = ActivationFunctions.__members__.get(value.upper()) if isinstance(value, str) else None
    if member is None:
        raise choice_error(ActivationFunctions.__members__)
    return member


class AnyOf:
    """JSON Schema of a union as anyOf: pydantic writes oneOf if a function selects the case."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        cases = handler(schema)
        return {"anyOf": cases["oneOf"]} if "oneOf" in cases else cases


FeatureMapChoice = Annotated[NameOrOptions, FromRegistry(FEATURE_MAPS, names="expanded", keys_optional=True)]
CoreChoice = Annotated[NameOrOptions, FromRegistry(CORES, names="expanded", keys_optional=True)]

AttentionType = Annotated[
    Annotated[CoreChoice, Tag("one")] | Annotated[list[CoreChoice], Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, list) else "one"),
    AnyOf(),
]
"""A core of `model.core_registry` for all layers, or a list with one for each."""

Size = Annotated[int, Field(gt=0, le=1_048_576)]
Device = Annotated[str, BeforeValidator(_check_device)]


def default_features(head_dim: int) -> int:
    """Return the default number of random features, D ln D for heads of width D, as in performer-pytorch."""
    return max(1, int(head_dim * log(head_dim)))


class PerformerParams(StrictModel):
    """Shape and attention of a stack of pre-norm transformer layers (Choromanski et al. 2021, arXiv 2009.14794)."""

    d_model: Size
    """Width of the residual stream. [channels]"""
    num_layers: Annotated[int, Field(gt=0, le=10_000)]
    """Number of layers. [layers]"""
    num_heads: Annotated[int, Field(gt=0, le=65_536)]
    """Number of query heads; divides d_model. [heads]"""
    device: Device = "auto"
    """auto (the accelerator if there is one, else cpu), cpu, cuda, cuda:N, mps or xpu."""
    batch_size: Size = 32
    """Rows of a batch, unless another section sets it. [rows]"""
    d_ff: Annotated[int, Field(gt=0, le=1_048_576)] = 4
    """Expansion factor of the feed-forward layer: its inner width is d_ff * d_model. [1]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a value after attention and inside the feed-forward layer. [probability]"""
    attention_type: AttentionType = "softmax"
    """softmax, linear (bidirectional), causal_linear or a registered core; a list of them has one for each layer."""
    activation: Annotated[ActivationFunctions, BeforeValidator(_check_activation)] = ActivationFunctions.GELU
    """GELU, GELU_TANH (GPT-2's approximation), RELU, SILU, GEGLU, REGLU or SWIGLU, in any case."""
    nb_features: Size | None = None
    """Random features of linear attention; None: head_dim * ln(head_dim). [features]"""
    use_cross_attention: bool | None = None
    """Attend to a context as well; None: true in an encoder-decoder's decoder, false elsewhere."""
    use_rezero: bool = False
    """ReZero (arXiv 2003.04887) in place of pre-LayerNorm."""
    use_scalenorm: bool = False
    """ScaleNorm (arXiv 1910.05895) in place of pre-LayerNorm."""
    feature_redraw_interval: Annotated[int, Field(gt=0)] | None = 1000
    """Training steps between two draws of the random features; None: never. [steps]"""
    auto_check_redraw: bool = True
    """Redraw automatically during training; false: only when `redraw_projections` is called."""
    vocab_size: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Number of token ids; None: from the data set's tokenizer, or the input is float. [tokens]"""
    max_length: Size | None = None
    """Longest sequence; required by `position: absolute`, else a bound that is checked. [tokens]"""
    position: Position = "rotary"
    """rotary (arXiv 2104.09864), absolute (learned) or none."""
    qk_norm: bool = False
    """RMS-normalise queries and keys of each head (arXiv 2010.04245)."""
    num_kv_heads: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Key and value heads (grouped-query attention, arXiv 2305.13245); divides num_heads; None: num_heads. [heads]"""
    tie_embeddings: bool = True
    """Use the token embedding as the output head as well."""
    head_bias: bool = False
    """Add a bias to the output head; needs `tie_embeddings: false`."""
    input_dim: Size | None = None
    """Width of float input (80 for log-mel bins), projected to d_model; None: from the features of speech data sets if the
    file has no `training`, else d_model. [channels]"""
    feature_map: FeatureMapChoice = "favor+"
    """Feature map of linear attention: favor+, favor++, favor# (softmax kernel), relu (random), elu or a custom one."""

    @property
    def head_dim(self) -> int:
        """Width of one head: d_model / num_heads."""
        return self.d_model // self.num_heads

    @property
    def attention_choices(self) -> list[NameOrOptions]:
        """The `attention_type` of each layer: a core's name, or the options of a core with keys."""
        types = self.attention_type
        return list(types) if isinstance(types, list) else [types] * self.num_layers

    @property
    def attention_types(self) -> list[str]:
        """Name of the attention core of each layer."""
        return [name_of(choice) for choice in self.attention_choices]

    @property
    def is_linear(self) -> bool:
        """True if the attention of any layer uses feature maps."""
        return any(core_entry(name).uses_features for name in self.attention_types)

    def of_layer(self, index: int) -> "PerformerParams":
        """Return these parameters with the `attention_type` of layer `index` alone, counted from 0."""
        return self.model_copy(update={"attention_type": self.attention_choices[index]})

    def violations(self) -> Iterator[Violation]:
        """Yield violated relations inside one stack; `model_types` has those of its role (encoder or decoder)."""
        yield from self._width_violations()
        yield from self._attention_violations()
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            yield Violation(
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}",
                ("num_kv_heads",),
                (("num_heads",),),
                f"a divisor of {self.num_heads}",
            )
        if self.use_rezero and self.use_scalenorm:
            yield Violation(
                "use_rezero and use_scalenorm exclude each other",
                ("use_scalenorm",),
                (("use_rezero",),),
                "keep one of them",
            )
        if self.head_bias and self.tie_embeddings:
            yield Violation(
                "head_bias needs an output head apart from the token embedding",
                ("head_bias",),
                (("tie_embeddings",),),
                "tie_embeddings: false",
            )
        if self.position == "absolute" and self.max_length is None:
            yield Violation(
                "position: absolute needs max_length", ("position",), (("max_length",),), "add max_length: 1024"
            )

    def _attention_violations(self) -> Iterator[Violation]:
        if isinstance(self.attention_type, list) and len(self.attention_type) != self.num_layers:
            yield Violation(
                f"attention_type lists {len(self.attention_type)} layers, and num_layers is {self.num_layers}",
                ("attention_type",),
                (("num_layers",),),
                "one name for each layer, or a single name for all",
            )
        elif self.nb_features is not None and not self.is_linear:
            found = " and ".join(dict.fromkeys(self.attention_types))
            yield Violation(
                f"nb_features only goes with linear attention, and attention_type is {found}",
                ("nb_features",),
                (("attention_type",),),
                "attention_type: linear, or leave nb_features out",
            )
        elif self.nb_features is not None and not feature_map_entry(self.feature_map).takes_nb_features:
            yield Violation(
                f"feature_map {name_of(self.feature_map)} has a fixed number of features and takes no nb_features",
                ("nb_features",),
                (("feature_map",),),
                "feature_map: favor+, or leave nb_features out",
            )

    def _width_violations(self) -> Iterator[Violation]:
        if self.d_model % self.num_heads:
            fitting = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            near = min(fitting, key=lambda n: abs(n - self.num_heads))
            yield Violation(
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}",
                ("num_heads",),
                (("d_model",),),
                f"num_heads: {near}",
            )
        elif self.position == "rotary" and self.head_dim % 2:
            yield Violation(
                f"rotary positions need an even head width, and {self.d_model} / {self.num_heads} is {self.head_dim}",
                ("num_heads",),
                (("d_model",), ("position",)),
                "position: absolute, or other numbers",
            )

    def sized(self, vocab_size: int | None) -> "PerformerParams":
        """Return a copy with a tokenizer's vocabulary size if it is not set; raise ValueError if it is set smaller."""
        if self.vocab_size is not None and vocab_size is not None and self.vocab_size < vocab_size:
            raise ValueError(f"vocab_size is {self.vocab_size}, and the data set's tokenizer has {vocab_size} tokens")
        return self if vocab_size is None else self.model_copy(update={"vocab_size": self.vocab_size or vocab_size})
